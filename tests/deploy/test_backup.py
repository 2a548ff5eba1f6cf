"""Backups that cannot be right leave no file, and nothing is restored that is not whole or where something is."""

import gzip
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from tests.servers.databases import Servers
from tests.servers.programs import get_program
from tests.support.backups import BACKUP, RESTORE, back_up, backups_in, client_path, restore, run_script, variables
from tests.support.databases import TestDatabase, admin_engine, fresh_database
from tests.support.deploy_tools import DEPLOY, run_program
from tests.support.service_settings import migrated

OPERATIONS = DEPLOY.parent / "docs" / "operations.md"


@pytest.fixture
async def known_database(servers: Servers) -> AsyncIterator[TestDatabase]:
    async with fresh_database("mysql", servers.mysql_url) as database:
        await migrated(database.settings)
        yield database


@pytest.fixture
def variables_of_it(servers: Servers, known_database: TestDatabase, tmp_path: Path) -> dict[str, str]:
    """Variables of a script for `known_database`."""
    return variables(
        tmp_path / "options", known_database.server_url, known_database.name, client_path(servers, "mysql")
    )


async def test_a_wrong_password_leaves_no_file_and_keeps_the_old_ones(
    servers: Servers, known_database: TestDatabase, tmp_path: Path
) -> None:
    if servers.mysql_password_url is None:
        pytest.skip("the server of TEST_MYSQL_URL has no user of ours with a password")
    name, path = known_database.name, client_path(servers, "mysql")
    old = tmp_path / f"{name}-20200101T000000Z.sql.gz"
    old.touch()
    os.utime(old, (0, 0))
    wrong = variables(tmp_path / "options", servers.mysql_password_url, name, path, password="guessed-password")
    done = run_script(BACKUP, {**wrong, "BACKUP_DIR": str(tmp_path)})
    assert done.returncode != 0
    assert "Access denied" in done.stderr
    assert "guessed-password" not in done.stderr
    assert backups_in(tmp_path) == [old]

    # With the right one, caching_sha2_password as MySQL has it, the old one goes.
    backup = back_up(variables(tmp_path / "options", servers.mysql_password_url, name, path), tmp_path)
    assert backups_in(tmp_path) == [backup]
    assert backup.stat().st_mode & 0o077 == 0


async def test_the_documented_rights_suffice(
    servers: Servers, known_database: TestDatabase, variables_of_it: dict[str, str], tmp_path: Path
) -> None:
    granted = re.search(r"^GRANT (.+) ON image_classifier", OPERATIONS.read_text(), re.MULTILINE)
    assert granted is not None
    user, name = f"backup_{known_database.name[-8:]}", known_database.name
    async with admin_engine(known_database.server_url) as engine, engine.connect() as connection:
        await connection.exec_driver_sql(f"CREATE USER {user}@'%%' IDENTIFIED BY 'password-of-a-test'")
        try:
            await connection.exec_driver_sql(f"GRANT {granted[1]} ON {name}.* TO {user}@'%%'")
            server = make_url(known_database.server_url).set(username=user, password="password-of-a-test")
            url = server.render_as_string(hide_password=False)
            back_up(variables(tmp_path / "options", url, name, variables_of_it["PATH"]), tmp_path)
        finally:
            await connection.exec_driver_sql(f"DROP USER {user}@'%%'")


async def test_views_come_back_without_the_account_that_created_them(
    servers: Servers, known_database: TestDatabase, variables_of_it: dict[str, str], tmp_path: Path
) -> None:
    """An account may not create a view in the name of another."""
    user, name = f"restore_{known_database.name[-8:]}", f"{known_database.name}_copy"
    # A line of the dump's own form, in a row.
    trap = "/*!50013 DEFINER=`root`@`localhost` SQL SECURITY INVOKER */"
    async with admin_engine(known_database.server_url) as engine, engine.connect() as connection:
        await connection.execute(
            text(f"INSERT INTO {known_database.name}.stats_state (name, value) VALUES ('trap', :value)"),
            {"value": f"\n{trap}\n"},
        )
        backup = back_up(variables_of_it, tmp_path)
        await connection.exec_driver_sql(f"CREATE USER {user}@'%%' IDENTIFIED BY 'password-of-a-test'")
        try:
            await connection.exec_driver_sql(f"GRANT ALL ON {name}.* TO {user}@'%%'")
            server = make_url(known_database.server_url).set(username=user, password="password-of-a-test")
            url = server.render_as_string(hide_password=False)
            restore(variables(tmp_path / "options", url, name, variables_of_it["PATH"]), backup)
            query = "SELECT DISTINCT definer FROM information_schema.views WHERE table_schema = :name"
            assert (await connection.scalars(text(query), {"name": name})).all() == [f"{user}@%"]
            await connection.exec_driver_sql(f"SELECT * FROM {name}.v_today")
            kept = await connection.scalar(text(f"SELECT value FROM {name}.stats_state WHERE name = 'trap'"))
            assert kept == f"\n{trap}\n"
        finally:
            await connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
            await connection.exec_driver_sql(f"DROP USER {user}@'%%'")


async def test_a_dump_that_fails_half_way_leaves_no_file(variables_of_it: dict[str, str], tmp_path: Path) -> None:
    """A disk that is full, here a limit of the size of files."""
    done = run_script(BACKUP, {**variables_of_it, "BACKUP_DIR": str(tmp_path)}, file_blocks=1)
    assert done.returncode != 0
    assert backups_in(tmp_path) == []


async def test_a_database_that_is_not_the_services_is_no_backup(
    variables_of_it: dict[str, str], known_database: TestDatabase, tmp_path: Path
) -> None:
    """The wrong name, or one that was dropped and made anew: a dump of nothing would push out the good ones."""
    old = tmp_path / f"{known_database.name}-20200101T000000Z.sql.gz"
    old.touch()
    os.utime(old, (0, 0))
    async with admin_engine(known_database.server_url) as engine, engine.connect() as connection:
        await connection.exec_driver_sql(f"DROP DATABASE {known_database.name}")
        await connection.exec_driver_sql(f"CREATE DATABASE {known_database.name}")
    done = run_script(BACKUP, {**variables_of_it, "BACKUP_DIR": str(tmp_path)})
    assert done.returncode == 1
    assert "does not hold the service's tables" in done.stderr
    assert backups_in(tmp_path) == [old]


async def test_only_backups_of_the_same_database_are_deleted(variables_of_it: dict[str, str], tmp_path: Path) -> None:
    """And what a power cut has left of one; what lies beside them is not ours."""
    name = variables_of_it["MYSQL_DATABASE"]
    left_over = tmp_path / f"{name}-20200101T000000Z.sql.gz.partial"
    others = [tmp_path / f"{name}-test-20200101T000000Z.sql.gz", tmp_path / f"{name}-before-the-upgrade.sql.gz"]
    for file in [left_over, *others]:
        file.touch()
        os.utime(file, (0, 0))
    backup = back_up(variables_of_it, tmp_path)
    assert set(backups_in(tmp_path)) == {backup, *others}


async def test_a_database_whose_name_has_a_dash_comes_back(
    servers: Servers, known_database: TestDatabase, variables_of_it: dict[str, str], tmp_path: Path
) -> None:
    name = f"{known_database.name}-copy"
    backup = back_up(variables_of_it, tmp_path)
    async with admin_engine(known_database.server_url) as engine, engine.connect() as connection:
        try:
            assert f"restored {name}: schema" in restore({**variables_of_it, "MYSQL_DATABASE": name}, backup)
            back_up({**variables_of_it, "MYSQL_DATABASE": name}, tmp_path)
        finally:
            await connection.exec_driver_sql(f"DROP DATABASE IF EXISTS `{name}`")


@pytest.mark.parametrize("script", [BACKUP, RESTORE])
async def test_a_name_that_is_more_than_a_name_is_refused(
    variables_of_it: dict[str, str], tmp_path: Path, script: Path
) -> None:
    environment = {**variables_of_it, "MYSQL_DATABASE": "--help", "BACKUP_DIR": str(tmp_path)}
    done = run_script(script, environment, *([tmp_path / "any.sql.gz"] if script == RESTORE else []))
    assert done.returncode == 1
    assert "MYSQL_DATABASE is a name of" in done.stderr


async def test_nothing_is_locked_by_a_restore(variables_of_it: dict[str, str], tmp_path: Path) -> None:
    """Clusters that are strict refuse LOCK TABLES, and it is a right of its own."""
    assert b"LOCK TABLES" not in gzip.decompress(back_up(variables_of_it, tmp_path).read_bytes())


async def test_mariadbs_program_is_refused_for_mysql(
    servers: Servers, variables_of_it: dict[str, str], tmp_path: Path
) -> None:
    """It would write a dump that MySQL does not take back."""
    if not servers.mysql_is_real:
        pytest.skip("MariaDB stands in for MySQL")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mysqldump").symlink_to(get_program("mariadb-dump", "mariadb-client"))
    path = f"{tmp_path / 'bin'}{os.pathsep}{variables_of_it['PATH']}"
    done = run_script(BACKUP, {**variables_of_it, "PATH": path, "BACKUP_DIR": str(tmp_path)})
    assert done.returncode == 1
    assert "install MySQL's own mysqldump" in done.stderr
    assert backups_in(tmp_path) == []


async def test_a_database_with_tables_is_not_restored_into(variables_of_it: dict[str, str], tmp_path: Path) -> None:
    done = run_script(RESTORE, variables_of_it, back_up(variables_of_it, tmp_path))
    assert done.returncode == 1
    assert "restore into an empty database" in done.stderr


async def test_an_encrypted_backup_comes_back_with_its_key_only(
    known_database: TestDatabase, variables_of_it: dict[str, str], tmp_path: Path
) -> None:
    get_program("age", "age")
    keys = [tmp_path / name for name in ("key.txt", "another.txt")]
    for key in keys:
        run_program("age-keygen", "age", "-o", key)
    recipient = re.search(r"age1[0-9a-z]+", keys[0].read_text())
    assert recipient is not None
    backup = back_up({**variables_of_it, "BACKUP_AGE_RECIPIENT": recipient[0]}, tmp_path)
    assert backup.name.endswith(".sql.gz.age")
    assert backup.read_bytes().startswith(b"age-encryption.org/")
    name = f"{known_database.name}_copy"
    environment = {**variables_of_it, "MYSQL_DATABASE": name}
    wrong = run_script(RESTORE, {**environment, "BACKUP_AGE_IDENTITY": str(keys[1])}, backup)
    assert wrong.returncode == 1
    assert "the key is another" in wrong.stderr
    async with admin_engine(known_database.server_url) as engine, engine.connect() as connection:
        try:
            said = restore({**environment, "BACKUP_AGE_IDENTITY": str(keys[0])}, backup)
            assert f"restored {name}: schema" in said
        finally:
            await connection.exec_driver_sql(f"DROP DATABASE IF EXISTS `{name}`")


async def test_half_a_backup_is_not_restored(variables_of_it: dict[str, str], tmp_path: Path) -> None:
    backup = back_up(variables_of_it, tmp_path)
    damaged, cut_off = tmp_path / "damaged.sql.gz", tmp_path / "cut-off.sql.gz"
    damaged.write_bytes(backup.read_bytes()[:-100])
    cut_off.write_bytes(gzip.compress(gzip.decompress(backup.read_bytes())[:-200]))
    for file, complaint in ((damaged, "is damaged"), (cut_off, "is not complete")):
        done = run_script(RESTORE, {**variables_of_it, "MYSQL_DATABASE": "never_made"}, file)
        assert done.returncode == 1
        assert complaint in done.stderr


def test_the_scripts_are_sound() -> None:
    done = run_program("shellcheck", "shellcheck", *sorted(DEPLOY.rglob("*.sh")))
    assert (done.returncode, done.stdout) == (0, "")
