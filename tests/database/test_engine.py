"""The engine on real servers: TLS that cannot be talked away, UTC, READ COMMITTED, and SQLite's ways."""

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database import engine as database_engine
from app.database import migrate as migration
from app.database import mysql_connection, transactions
from app.database.engine import create_engine
from app.database.migrate import migrate
from app.database.pipeline import run
from app.database.statements import Statement
from app.errors import DatabaseUnavailable
from app.runtime import availability
from tests.servers.databases import Servers
from tests.servers.processes import free_port
from tests.support.databases import TestDatabase, admin_engine
from tests.support.silence import way_to


async def scalar(settings: Settings, sql: str) -> Any:
    engine = create_engine(settings)
    try:
        async with engine.connect() as connection:
            return (await connection.execute(text(sql))).all()[0][-1]
    finally:
        await engine.dispose()


def mysql_settings(url: str, **options: Any) -> Settings:
    """The specification's MYSQL_* variables for a server."""
    parts = make_url(url)
    return Settings(
        database=DatabaseSettings.model_validate(
            {
                "host": parts.host,
                "port": parts.port,
                "user": parts.username,
                "password": parts.password or "",
                "database": parts.database or "information_schema",
                **options,
            }
        )
    )


@pytest.fixture
def tls(servers: Servers) -> tuple[str, Path]:
    """A user with a password on a server with a certificate, and the authority that signed it."""
    if servers.mysql_password_url is None or servers.mysql_ca is None:
        pytest.skip("TEST_MYSQL_URL names a server whose certificates are not ours")
    return servers.mysql_password_url, servers.mysql_ca


async def test_sessions_are_utc_and_read_committed(mysql_database: TestDatabase) -> None:
    settings = mysql_settings(mysql_database.url)
    assert await scalar(settings, "SELECT @@session.time_zone") == "+00:00"
    variable = "transaction_isolation" if mysql_database.kind == "mysql" else "tx_isolation"
    assert await scalar(settings, f"SELECT @@session.{variable}") == "READ-COMMITTED"


async def test_tls_with_a_password(tls: tuple[str, Path]) -> None:
    url, authority = tls
    settings = mysql_settings(url, ssl=True, ssl_ca=authority)
    assert await scalar(settings, "SHOW SESSION STATUS LIKE 'Ssl_cipher'") != ""
    assert await scalar(mysql_settings(url), "SELECT CURRENT_USER()") != ""


async def test_an_unknown_authority_is_refused(tls: tuple[str, Path]) -> None:
    with pytest.raises(DatabaseUnavailable, match="certificate verify failed"):
        await migrate_once(mysql_settings(tls[0], ssl=True))


async def test_a_missing_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="MYSQL_SSL_CA"):
        create_engine(mysql_settings("mysql://u:p@127.0.0.1:3306/x", ssl=True, ssl_ca=tmp_path / "none.pem"))


def test_a_silent_connection_leaves_time_for_another_attempt() -> None:
    total = transactions.TOTAL_TIMEOUT_SECONDS
    first_ends = transactions.ATTEMPT_SHARE * total
    # What the drivers give up by themselves has its own, better error.
    assert total / 2 > mysql_connection.CONNECT_TIMEOUT_SECONDS
    assert first_ends > database_engine.MYSQL_LOCK_WAIT_TIMEOUT_SECONDS
    assert total > database_engine.POOL_TIMEOUT_SECONDS
    # Pauses between the attempts: at most 0.1, 0.2 and 0.4 s.
    assert total > transactions.MAX_ATTEMPTS * database_engine.SQLITE_BUSY_TIMEOUT_SECONDS + 0.7
    # A database that is away is known as such before a first attempt on it ends.
    assert first_ends > availability.SUSPECT_AFTER_SECONDS + availability.PROBE_TIMEOUT_SECONDS


async def test_a_certificate_for_another_host(tls: tuple[str, Path]) -> None:
    url, authority = tls
    async with stripping_tls(url, strip=False) as elsewhere:
        settings = mysql_settings(elsewhere, ssl=True, ssl_ca=authority, host="127.0.0.2")
        with pytest.raises(DatabaseUnavailable, match="certificate verify failed"):
            await migrate_once(settings)
        trusting = mysql_settings(elsewhere, ssl=True, ssl_ca=authority, host="127.0.0.2", ssl_check_hostname=False)
        assert await scalar(trusting, "SHOW SESSION STATUS LIKE 'Ssl_cipher'") != ""


async def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_connection, "CONNECT_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(migration, "WAIT_FOR_DATABASE_SECONDS", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = mysql_settings(f"mysql+aiomysql://root@127.0.0.1:{silent.getsockname()[1]}/x")
        with pytest.raises(DatabaseUnavailable, match="does not answer"):
            await migrate_once(settings)


async def test_a_connection_that_goes_silent_is_given_up(
    mysql_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover: what was connected says nothing any more, new connections work."""
    monkeypatch.setattr(transactions, "ATTEMPT_SHARE", 0.06)
    async with way_to(mysql_database.url) as way:
        engine = create_engine(Settings(database=DatabaseSettings.model_validate({"url": way.url})))

        async def select(connection: AsyncConnection) -> Any:
            return await connection.scalar(text("SELECT 1"))

        try:
            assert await asyncio.gather(*(transactions.read(engine, select) for _ in range(3))) == [1, 1, 1]
            way.silence()
            assert await asyncio.gather(*(transactions.read(engine, select) for _ in range(3))) == [1, 1, 1]
        finally:
            await engine.dispose()


async def test_killed_connections_are_replaced(mysql_database: TestDatabase) -> None:
    engine = create_engine(Settings(database=mysql_database.settings))

    async def connection_id(connection: AsyncConnection) -> Any:
        return await connection.scalar(text("SELECT CONNECTION_ID()"))

    try:
        ids = await asyncio.gather(*(transactions.read(engine, connection_id) for _ in range(5)))
        async with admin_engine(mysql_database.server_url) as admin, admin.connect() as killer:
            for number in set(ids):
                await killer.exec_driver_sql(f"KILL {number}")
        again = await asyncio.gather(*(transactions.write(engine, connection_id) for _ in range(5)))
        assert not set(again) & set(ids)
    finally:
        await engine.dispose()


async def test_a_packet_finds_a_living_connection_where_all_have_been_killed(mysql_database: TestDatabase) -> None:
    engine = create_engine(Settings(database=mysql_database.settings))
    own_number = [Statement("SELECT CONNECTION_ID()")]
    try:
        numbers = {(await run(engine, own_number, writes=False))[0][0][0]}
        async with (
            engine.connect() as one,
            engine.connect() as two,
            engine.connect() as three,
            engine.connect() as four,
        ):
            for connection in (one, two, three, four):
                numbers.add(await connection.scalar(text("SELECT CONNECTION_ID()")))
        assert len(numbers) >= 4
        async with admin_engine(mysql_database.server_url) as admin, admin.connect() as killer:
            for number in numbers:
                await killer.exec_driver_sql(f"KILL {number}")
        # More dead connections than attempts: the first failure is enough to distrust all of them.
        ((found,),) = (await run(engine, own_number, writes=True))[0]
        assert found not in numbers
    finally:
        await engine.dispose()


async def test_a_deadlock_is_tried_again(mysql_database: TestDatabase) -> None:
    """Two transactions take two rows in opposite orders, each holding its first until the other has one too."""
    engine = create_engine(Settings(database=mysql_database.settings))
    arrived = [asyncio.Event(), asyncio.Event()]
    runs = 0

    async def set_up(connection: AsyncConnection) -> None:
        await connection.execute(text("CREATE TABLE pair (id INT PRIMARY KEY, n INT) ENGINE=InnoDB"))
        await connection.execute(text("INSERT INTO pair VALUES (0, 0), (1, 0)"))

    def adding_to_both(me: int) -> Any:
        async def add(connection: AsyncConnection) -> None:
            nonlocal runs
            runs += 1
            await connection.execute(text("UPDATE pair SET n = n + 1 WHERE id = :id"), {"id": me})
            arrived[me].set()
            await arrived[1 - me].wait()
            await connection.execute(text("UPDATE pair SET n = n + 1 WHERE id = :id"), {"id": 1 - me})

        return add

    try:
        await transactions.write(engine, set_up)
        await asyncio.gather(*(transactions.write(engine, adding_to_both(me)) for me in (0, 1)))
        assert runs == 3
        async with engine.connect() as connection:
            assert (await connection.scalars(text("SELECT n FROM pair ORDER BY id"))).all() == [2, 2]
    finally:
        await engine.dispose()


async def test_tls_cannot_be_talked_away(tls: tuple[str, Path]) -> None:
    url, authority = tls
    async with stripping_tls(url) as in_between:
        assert await scalar(mysql_settings(in_between), "SHOW SESSION STATUS LIKE 'Ssl_cipher'") == ""
        with pytest.raises(DatabaseUnavailable, match="does not speak TLS"):
            await migrate_once(mysql_settings(in_between, ssl=True, ssl_ca=authority))


@asynccontextmanager
async def stripping_tls(url: str, *, strip: bool = True) -> AsyncIterator[str]:
    """An attacker between us and the server, who takes the offer of TLS out of its greeting; yields both URLs."""
    server = make_url(url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(server.host, server.port)
        greeting = bytearray(await server_reader.read(65536))
        if strip:
            # Header 4, protocol 1, version up to NUL, thread 4, salt 8, filler 1; then the low half of the flags,
            # whose bit 0x0800 is CLIENT_SSL. https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html
            flags = greeting.index(0, 5) + 1 + 4 + 8 + 1
            greeting[flags + 1] &= ~0x08
        writer.write(greeting)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    proxy = await asyncio.start_server(serve, ["127.0.0.1", "127.0.0.2"], free_port())
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        yield server.set(host="127.0.0.1", port=port).render_as_string(False)


async def migrate_once(settings: Settings) -> None:
    engine = create_engine(settings)
    try:
        await migrate(engine, settings)
    finally:
        await engine.dispose()


async def test_a_missing_database_is_created(servers: Servers, mysql_database: TestDatabase) -> None:
    name = f"{mysql_database.name}_new"
    settings = mysql_settings(make_url(mysql_database.server_url).set(database=name).render_as_string(False))
    async with admin_engine(mysql_database.server_url) as admin, admin.connect() as connection:
        try:
            await migrate_once(settings)
            assert await scalar(settings, "SELECT COUNT(*) FROM request_log") == 0
            collation = text("SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = :name")
            assert await connection.scalar(collation, {"name": name}) == "utf8mb4_unicode_ci"
        finally:
            await connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")


@pytest.mark.parametrize("password", ["wrong", "p@ss/w:rd#%"])
async def test_wrong_credentials_say_so_without_the_password(servers: Servers, password: str) -> None:
    url = make_url(servers.mysql_url).set(password=password, database="x")
    settings = mysql_settings(url.render_as_string(False))
    with pytest.raises(DatabaseUnavailable) as caught:
        await migrate_once(settings)
    assert password not in str(caught.value)
    assert password not in repr(settings)


async def test_sqlite_is_in_wal_and_waits_for_locks(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "made" / "here")
    assert await scalar(settings, "PRAGMA journal_mode") == "wal"
    assert await scalar(settings, "PRAGMA synchronous") == 2
    assert await scalar(settings, "PRAGMA busy_timeout") == 1000
    assert (tmp_path / "made" / "here" / "image-classifier.db").exists()


async def test_a_cancelled_transaction_of_sqlite_leaves_no_lock(tmp_path: Path) -> None:
    """SQLite closes no connection of which a statement lives, as in the traceback of the task."""
    database = tmp_path / "test.db"
    settings = Settings(database=DatabaseSettings.model_validate({"url": f"sqlite:///{database}"}))
    engine = create_engine(settings)
    begun = asyncio.Event()
    unread: list[object] = []

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("CREATE TABLE numbers (number INTEGER)"))
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        unread.append(await driver.execute("SELECT 1 UNION SELECT 2"))
        begun.set()
        await connection.execute(text("SELECT 3"))

    try:
        writing = asyncio.create_task(transactions.write(engine, work))
        await begun.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        with closing(sqlite3.connect(database, timeout=10, isolation_level=None, check_same_thread=False)) as other:
            await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
    finally:
        await engine.dispose()
