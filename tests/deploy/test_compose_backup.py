"""Backup and restore as docs/deployment.md has them for Docker Compose: what it runs in MySQL's container, run here."""

import re
import subprocess
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.config.settings import PROJECT_ROOT
from tests.servers.databases import Servers
from tests.support.backups import client_path
from tests.support.databases import TestDatabase, admin_engine, fresh_database
from tests.support.service_settings import migrated

PASSWORD = 'it\'s $a "password" of a test'
DUMP, EMPTY, LOAD = re.findall(r"sh -c '(MYSQL_PWD=[^']+)'", (PROJECT_ROOT / "docs/deployment.md").read_text("utf-8"))

# What is between the file and the container: views belong to the account that restores them.
(FILTER,) = re.findall(r"\| (sed '[^']+') \|", (PROJECT_ROOT / "docs/deployment.md").read_text("utf-8"))


@pytest.fixture
async def database(servers: Servers) -> AsyncIterator[TestDatabase]:
    if not servers.mysql_is_real:
        pytest.skip("MariaDB stands in for MySQL, whose programs these are")
    async with fresh_database("mysql", servers.mysql_url) as fresh:
        await migrated(fresh.settings)
        yield fresh


@pytest.fixture
async def variables(servers: Servers, database: TestDatabase) -> AsyncIterator[dict[str, str]]:
    """The environment of the container, and the user that MySQL's image makes, with the rights that it gives."""
    user, name = f"user_{database.name[-8:]}", database.name
    async with admin_engine(database.server_url) as engine, engine.connect() as connection:
        quoted = PASSWORD.replace("'", "''").replace("%", "%%")
        await connection.exec_driver_sql(f"CREATE USER {user}@'%%' IDENTIFIED BY '{quoted}'")
        try:
            pattern = name.replace("_", r"\_")
            await connection.exec_driver_sql(f"GRANT ALL ON `{pattern}`.* TO {user}@'%%'")
            yield {
                "PATH": client_path(servers, "mysql"),
                "MYSQL_USER": user,
                "MYSQL_PASSWORD": PASSWORD,
                "MYSQL_DATABASE": name,
            }
        finally:
            await connection.exec_driver_sql(f"DROP USER {user}@'%%'")


def run(command: str, variables: dict[str, str], server: str, standard_input: bytes = b"") -> bytes:
    url = make_url(server)
    # The one thing that is otherwise in the container: there the server is behind a socket.
    command = command.replace(" --user", f" --protocol=tcp --host={url.host} --port={url.port} --user")
    done = subprocess.run(  # noqa: S603 - the documentation's own command
        ["/bin/sh", "-c", command], env=variables, input=standard_input, capture_output=True, timeout=60, check=False
    )
    # MySQL 9's program says that it may not read what MySQL 8.4 does not have.
    assert done.returncode == 0 or b"column_masking_policy" in done.stderr, done.stderr.decode()
    return done.stdout


async def test_what_is_backed_up_comes_back(database: TestDatabase, variables: dict[str, str]) -> None:
    server, name = database.server_url, database.name
    async with admin_engine(server) as engine, engine.connect() as connection:
        tables = {row[0] for row in await connection.execute(text(f"SHOW TABLES FROM {name}"))}
        await connection.exec_driver_sql(
            f"INSERT INTO {name}.cache_change (image_hash, changed_at) VALUES (REPEAT('a', 64), '2026-01-01')"
        )
        await connection.commit()
        dump = run(DUMP, variables, server)
        # By which docs/deployment.md knows that it is whole.
        assert dump.rstrip().splitlines()[-1].startswith(b"-- Dump completed")

        await connection.exec_driver_sql(f"CREATE TABLE {name}.of_a_newer_version (id INT)")
        run(EMPTY, variables, server)
        run(f"{FILTER} | {LOAD}", variables, server, dump)
        assert {row[0] for row in await connection.execute(text(f"SHOW TABLES FROM {name}"))} == tables
        found = await connection.scalar(text(f"SELECT image_hash FROM {name}.cache_change"))
        assert found == "a" * 64
