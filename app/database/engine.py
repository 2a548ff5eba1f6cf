"""The engine: the same rules on MySQL, MariaDB and SQLite.

READ COMMITTED on MySQL, so that the loser of a race on a new image sees the winner's row; WAL on SQLite, so that
readers do not wait for the writer; UTC in every session.
"""

import sqlite3
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pymysql.err import MySQLError
from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.mysql_connection import connect, probe
from app.errors import DatabaseUnavailable
from app.runtime.availability import Availability
from app.runtime.background import OutageLog, spawn
from app.runtime.capacity import PoolLimits, pool_limits, replica_pool_limits

# What is waited for here stays below the time of a whole transaction (app/database/transactions.py), so that what is
# amiss is told by its name.
POOL_TIMEOUT_SECONDS = 4
# Each connection is a thread, and there is one writer at a time: more only get in each other's way (make bench).
SQLITE_POOL_SIZE = 4
# Both are tried again. All tries of SQLite fit into a transaction's time: none goes on in its thread after it.
SQLITE_BUSY_TIMEOUT_SECONDS = 1
MYSQL_LOCK_WAIT_TIMEOUT_SECONDS = 2
# Execution option: the transaction will write, so SQLite takes the write lock at its beginning.
SQLITE_BEGIN_IMMEDIATE = "sqlite_begin_immediate"
# Execution option of an engine: its `Availability`.
_AVAILABILITY = "availability"


def create_engine(settings: Settings) -> AsyncEngine:
    """Build the engine that the settings ask for; no connection is opened yet. SQLite's folder is created.

    Raises:
        DatabaseUnavailable: the folder cannot be created, or MySQL's connections do not suffice for the workers.
    """
    url = settings.database_url
    if url.get_backend_name() == "sqlite":
        try:
            # Other users of the machine must not read it.
            Path(url.database or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseUnavailable(
                f"The folder of the SQLite database cannot be made: {error}. Check DATA_DIR."
            ) from error
        engine = create_async_engine(
            url, pool_size=SQLITE_POOL_SIZE, max_overflow=0, pool_timeout=POOL_TIMEOUT_SECONDS, hide_parameters=True
        )
        event.listen(engine.sync_engine, "connect", _prepare_pooled_sqlite_connection)
        event.listen(engine.sync_engine, "begin", _begin_sqlite_transaction)
        event.listen(engine.sync_engine, "invalidate", _roll_back_sqlite_transaction)
        return engine
    try:
        limits = pool_limits(settings)
    except ValueError as error:
        raise DatabaseUnavailable(str(error)) from error
    engine = _create_mysql_engine(settings, url, limits)
    _watch(engine, settings.database)
    return engine


def create_replica_engine(settings: Settings) -> AsyncEngine | None:
    """Build the engine for MYSQL_READ_HOST, or return None where that is not set; no connection is opened yet.

    Raises:
        DatabaseUnavailable: the main database is no MySQL.
    """
    url = settings.database.read_url(settings.database_url)
    if url is None:
        return None
    if url.get_backend_name() == "sqlite":
        raise DatabaseUnavailable("MYSQL_READ_HOST is set, but the database is SQLite: set MYSQL_HOST too, or neither.")
    return _create_mysql_engine(settings, url, replica_pool_limits(settings))


def _create_mysql_engine(settings: Settings, url: URL, limits: PoolLimits) -> AsyncEngine:
    return create_async_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=limits.size,
        max_overflow=limits.overflow,
        pool_recycle=settings.database.pool_recycle_seconds,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        # SQLAlchemy ends its own transactions, and a pipelined one ends with its COMMIT (app/database/pipeline.py): a
        # ROLLBACK at every return would be one more trip for nothing.
        pool_reset_on_return=None,
        connect_args=mysql_connect_arguments(settings.database),
        # Error texts would otherwise carry the rows, which hold user ids and addresses.
        hide_parameters=True,
    )


def availability_of(engine: AsyncEngine) -> Availability | None:
    """Return what this process knows of the server of `engine`.

    None for SQLite, where a lock is all that can be waited for, and for a replica (app/database/replica.py).
    """
    availability: Availability | None = engine.get_execution_options().get(_AVAILABILITY)
    return availability


def _watch(engine: AsyncEngine, database: DatabaseSettings) -> None:
    """Have requests refused at once while the server of `engine` is away."""
    _, options = engine.dialect.create_connect_args(engine.url)
    arguments = {**options, **mysql_connect_arguments(database)}
    del arguments["async_creator_fn"]

    def distrust_connections() -> None:
        # Of those that are open some may be dead, as behind a firewall; each is replaced when it is next asked for.
        engine.pool._invalidate(None)  # type: ignore[arg-type]  # noqa: SLF001 - it has no public name

    availability = Availability(
        partial(probe, **arguments),
        outage=OutageLog(
            "the database is away: what needs it is refused at once",
            recovered="the database is back",
            expected=(MySQLError,),
        ),
        on_return=distrust_connections,
    )
    engine.update_execution_options(**{_AVAILABILITY: availability})
    event.listen(engine.sync_engine, "engine_disposed", lambda _: availability.close())


def connections_limit(settings: Settings) -> int:
    """Return how many connections the pool of one process may open at most; raises ValueError as `pool_limits`."""
    if settings.database_url.get_backend_name() == "sqlite":
        return SQLITE_POOL_SIZE
    return sum(pool_limits(settings))


def mysql_connect_arguments(database: DatabaseSettings) -> dict[str, Any]:
    """What the driver is told beside the URL.

    Raises:
        DatabaseUnavailable: MYSQL_SSL_CA is no file of certificates.
    """
    arguments: dict[str, Any] = {
        "charset": "utf8mb4",
        "async_creator_fn": connect,
        "init_command": f"SET time_zone = '+00:00', innodb_lock_wait_timeout = {MYSQL_LOCK_WAIT_TIMEOUT_SECONDS}",
    }
    if database.ssl:
        try:
            context = ssl.create_default_context(cafile=database.ssl_ca)
        except OSError as error:
            raise DatabaseUnavailable(f"MYSQL_SSL_CA cannot be read: {error}.") from error
        context.check_hostname = database.ssl_check_hostname
        arguments["ssl"] = context
    return arguments


def prepare_sqlite_connection(connection: sqlite3.Connection | DBAPIConnection) -> None:
    """Give a new connection the rules of this module; its user begins transactions."""
    # sqlite3 shall not begin transactions by itself.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # FULL: a committed row survives a power cut too, as with MySQL's default.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _prepare_pooled_sqlite_connection(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    prepare_sqlite_connection(connection)
    connection.create_function("HAMMING_DISTANCE", 2, _hamming_distance, deterministic=True)


def _hamming_distance(one: int, other: int) -> int:
    """As `statements.hamming_distance` writes it: of signed 64-bit numbers."""
    return ((one ^ other) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()


def _begin_sqlite_transaction(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(SQLITE_BEGIN_IMMEDIATE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _roll_back_sqlite_transaction(connection: DBAPIConnection, *_: object) -> None:
    """End the transaction of a connection that is given up, as after a time-out, before it is closed.

    SQLite puts the closing off while a statement of the connection lives, as it does in the traceback of a cancelled
    task, and the connection would keep the write lock for so long: https://www.sqlite.org/c3ref/close.html
    """

    async def roll_back() -> None:
        with suppress(sqlite3.Error, ValueError):
            await connection.driver_connection.rollback()

    # It gets into the queue of the connection's thread before the closing does, and that keeps the task.
    spawn(roll_back(), name="sqlite-rollback")


def location(url: URL) -> str:
    """Return where a database is, the same in every process that uses it: host, port and name, or the file's path."""
    place = str(Path(url.database or "").resolve()) if url.get_backend_name() == "sqlite" else url.database
    return f"{url.host}:{url.port}/{place}"
