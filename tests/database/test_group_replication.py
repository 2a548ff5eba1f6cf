"""Two members of MySQL's Group Replication that are both written to: who loses at COMMIT tries again."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pymysql
import pytest

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.pipeline import run
from app.database.statements import Statement
from app.errors import DatabaseUnavailable
from scripts.mysql_instance import create_data_directory, greeting, server_command, socket_path
from scripts.mysql_programs import get_mysql, search_path, server_home
from tests.servers.processes import free_port, start_process
from tests.servers.waiting import wait_until

TRANSACTIONS = 60


def query(port: int, *statements: str) -> list[tuple[object, ...]]:
    """Run statements as root and return the rows of the last."""
    with pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=True) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def _greets(socket: Path) -> bool:
    return greeting(socket) is not None


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The ports of a group of two."""
    program = get_mysql(server_home(), search_path())
    if not program.is_mysql:
        pytest.skip("MariaDB, which stands in for MySQL, has no Group Replication")
    server = next(Path(part).resolve() for part in program.command if part.endswith("/mysqld"))
    plugins = server.parents[1] / "lib" / "mysql" / "plugin"
    if not (plugins / "group_replication.so").exists():
        pytest.skip("this MySQL server comes without Group Replication")
    ports, group_ports = [free_port(), free_port()], [free_port(), free_port()]
    group = {
        "group-name": uuid.uuid4(),
        "group-seeds": ",".join(f"127.0.0.1:{port}" for port in group_ports),
        "single-primary-mode": "OFF",
        "enforce-update-everywhere-checks": "ON",
        "recovery-get-public-key": "ON",
    }
    with ExitStack() as stack:
        for number, (port, group_port) in enumerate(zip(ports, group_ports, strict=True), 1):
            directory = tmp_path_factory.mktemp("member")
            create_data_directory(program, server_home(), directory / "data")
            command = [
                *(each for each in server_command(program, directory, port) if "disable-log-bin" not in each),
                f"--server-id={number}",
                f"--log-bin={directory / 'binlog'}",
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--report-host=127.0.0.1",
                f"--plugin-dir={plugins}",
                "--plugin-load-add=group_replication.so",
                f"--loose-group-replication-local-address=127.0.0.1:{group_port}",
                *(f"--loose-group-replication-{name}={value}" for name, value in group.items()),
                "--loose-group-replication-start-on-boot=OFF",
            ]
            ready = partial(_greets, socket_path(directory))
            stack.enter_context(start_process(command, ready=ready, grace_seconds=0))
            is_first = "ON" if number == 1 else "OFF"
            query(
                port,
                "SET SQL_LOG_BIN = 0",
                "CREATE USER replication IDENTIFIED BY 'only-for-tests'",
                "GRANT REPLICATION SLAVE, CONNECTION_ADMIN, GROUP_REPLICATION_STREAM, BACKUP_ADMIN ON *.*"
                " TO replication",
                "SET SQL_LOG_BIN = 1",
                "CHANGE REPLICATION SOURCE TO SOURCE_USER = 'replication', SOURCE_PASSWORD = 'only-for-tests'"
                " FOR CHANNEL 'group_replication_recovery'",
                "RESET BINARY LOGS AND GTIDS",
                f"SET GLOBAL group_replication_bootstrap_group = {is_first}",
                "START GROUP_REPLICATION",
                "SET GLOBAL group_replication_bootstrap_group = OFF",
            )
        state = "SELECT COUNT(*) FROM performance_schema.replication_group_members WHERE member_state = 'ONLINE'"
        wait_until(lambda: all(query(port, state) == [(2,)] for port in ports), "both members are there", 60)
        yield ports


async def test_who_loses_at_commit_tries_again(members: list[int]) -> None:
    query(
        members[0],
        "CREATE DATABASE group_test",
        "CREATE TABLE group_test.sums (name VARCHAR(9) PRIMARY KEY, value INT)",
        "INSERT INTO group_test.sums VALUES ('shared', 0)",
    )

    def sum_on(port: int) -> object:
        try:
            return query(port, "SELECT value FROM group_test.sums")[0][0]
        except (pymysql.MySQLError, IndexError):
            return None

    await asyncio.to_thread(wait_until, lambda: sum_on(members[1]) == 0, "the row is on both")
    add = [Statement("UPDATE sums SET value = value + 1 WHERE name = %s", ("shared",)), Statement("DO SLEEP(0.01)")]
    url = "mysql://root@127.0.0.1:{}/group_test"
    engines = [
        create_engine(Settings(database=DatabaseSettings.model_validate({"url": url.format(port)}))) for port in members
    ]
    try:

        async def write_often(number: int) -> None:
            done = 0
            while done < TRANSACTIONS:
                # The two collide all the time; four defeats in a row are one too many.
                with suppress(DatabaseUnavailable):
                    await run(engines[number], add, writes=True)
                    done += 1

        await asyncio.gather(*(write_often(number) for number in range(2)))
    finally:
        for engine in engines:
            await engine.dispose()
    await asyncio.to_thread(
        wait_until, lambda: [sum_on(port) for port in members] == [2 * TRANSACTIONS] * 2, "each is counted once"
    )
