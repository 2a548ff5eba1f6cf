"""The one place where database work is retried, and where a driver's error becomes one of ours.

`read` and `write` take a function of a connection. It must be safe to run again from the start: a deadlock, a lock
timeout or a lost connection makes it run again in a new transaction.
"""

import asyncio
import random
import sqlite3
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from loguru import logger
from pymysql.err import InterfaceError as DriverInterfaceError
from pymysql.err import MySQLError
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.engine import SQLITE_BEGIN_IMMEDIATE
from app.errors import DatabaseUnavailable, ServerBusy

T = TypeVar("T")

MAX_ATTEMPTS = 4
# A peer that has vanished (a failover, a dropped NAT entry) says nothing for hours; no request shall wait for it.
# The total leaves room for a second attempt after a first that ran out of time.
ATTEMPT_TIMEOUT_SECONDS = 8.0
TOTAL_TIMEOUT_SECONDS = 20.0
RETRY_AFTER_SECONDS = 2.0
# Error numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
_DEADLOCK = 1213
_LOCK_WAIT_TIMEOUT = 1205
_GALERA_CONFLICT_OR_NOT_READY = 1047
# What a node of a cluster says of a COMMIT that has lost to another node's (Group Replication), or in the moment when
# it finds itself cut off from the others (Galera).
_COMMIT_REFUSED = frozenset({1180, 3101})
_TOO_MANY_CONNECTIONS = 1040
_SERVER_SHUTDOWN = 1053
# 1927 is MariaDB's "connection was killed".
_LOST_CONNECTION = frozenset({1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031})
# What a primary says that has become a replica; the next connection may lead to the new one.
_READ_ONLY = frozenset({1290, 1792, 1836})
_REFUSES_US = frozenset({1044, 1045, 1049, 2026})
_NO_SUCH_TABLE = frozenset({1146})
_DISK_FULL = frozenset({1021, 1114})
# SQLite has no numbers that the driver hands on: https://www.sqlite.org/rescode.html
_SQLITE_IS_UNUSABLE = (
    "unable to open database file",
    "database or disk is full",
    "disk I/O error",
    "attempt to write a readonly database",
    "no such table",
)
_RETRYABLE = _LOST_CONNECTION | {
    _DEADLOCK,
    _LOCK_WAIT_TIMEOUT,
    _GALERA_CONFLICT_OR_NOT_READY,
    _TOO_MANY_CONNECTIONS,
    _SERVER_SHUTDOWN,
    *_READ_ONLY,
    *_COMMIT_REFUSED,
}


async def read(
    engine: AsyncEngine,
    work: Callable[[AsyncConnection], Awaitable[T]],
    *,
    max_attempts: int = MAX_ATTEMPTS,
    quietly: bool = False,
) -> T:
    """Run `work` in a transaction that only reads; `quietly`: nothing is logged, the caller tells what is amiss.

    Raises:
        DatabaseUnavailable: the database cannot be reached, also after retries.
        ServerBusy: no connection became free in time.
    """
    return await _run(engine, work, writes=False, max_attempts=max_attempts, quietly=quietly)


async def write(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]], *, quietly: bool = False) -> T:
    """Run `work` in a transaction and commit it; `quietly` and errors as with `read`."""
    return await _run(engine, work, writes=True, max_attempts=MAX_ATTEMPTS, quietly=quietly)


async def with_retries(
    attempt: Callable[[], Awaitable[T]], *, max_attempts: int = MAX_ATTEMPTS, quietly: bool = False
) -> T:
    """Return what `attempt` returns; it is tried again in a moment when what went wrong may pass.

    What went wrong is logged, unless `quietly`.

    Raises:
        DatabaseUnavailable, ServerBusy: as `read`.
    """
    attempts = 1
    started_at = time.monotonic()
    while True:
        try:
            return await attempt()
        except PoolTimeoutError as error:
            raise ServerBusy(retry_after_seconds=RETRY_AFTER_SECONDS) from error
        except (DBAPIError, MySQLError, sqlite3.Error, OSError) as error:
            if not is_passing(error):
                if is_unreachable(error):
                    if not quietly:
                        logger.error("the database cannot be used: {}", reason(error))
                    raise DatabaseUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from error
                raise
            if (
                attempts >= max_attempts
                or time.monotonic() - started_at > TOTAL_TIMEOUT_SECONDS - ATTEMPT_TIMEOUT_SECONDS
            ):
                raise DatabaseUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from error
            if not quietly:
                logger.warning(
                    "database transaction attempt {} failed ({})", attempts, _number(error) or type(error).__name__
                )
            await asyncio.sleep(random.uniform(0.5, 1.0) * 0.05 * 2**attempts)
            attempts += 1


async def _run(
    engine: AsyncEngine,
    work: Callable[[AsyncConnection], Awaitable[T]],
    *,
    writes: bool,
    max_attempts: int,
    quietly: bool,
) -> T:
    async def attempt() -> T:
        # A connection on which this runs out is closed by SQLAlchemy, not used again.
        async with asyncio.timeout(ATTEMPT_TIMEOUT_SECONDS), engine.connect() as connection:
            await connection.execution_options(**{SQLITE_BEGIN_IMMEDIATE: writes})
            if not writes:
                # Nothing to commit: closing the connection ends the transaction.
                return await work(connection)
            try:
                async with connection.begin():
                    return await work(connection)
            except DBAPIError as error:
                if _number(error) in _READ_ONLY:
                    await connection.invalidate()
                raise

    return await with_retries(attempt, max_attempts=max_attempts, quietly=quietly)


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed a moment later: deadlock, lock timeout, lost or silent connection.

    A time-out of ours is a TimeoutError, which is an OSError.
    """
    if _tls_failure(error) is not None:
        return False
    # The driver's own InterfaceError: the connection was closed under us.
    if isinstance(error, OSError | DriverInterfaceError) or _number(error) in _RETRYABLE:
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(_driver_error(error), sqlite3.OperationalError) and "database is locked" in str(
        _driver_error(error)
    )


def is_unreachable(error: BaseException) -> bool:
    """Whether the database as a whole is out of reach for us: wrong credentials, no such database, no trust."""
    if isinstance(error, InterfaceError) or _tls_failure(error) is not None:
        return True
    if _number(error) in _REFUSES_US | _NO_SUCH_TABLE | _DISK_FULL:
        return True
    text = str(_driver_error(error))
    return isinstance(_driver_error(error), sqlite3.OperationalError) and any(
        words in text for words in _SQLITE_IS_UNUSABLE
    )


def reason(error: BaseException) -> BaseException:
    """What really happened, for the operator: the driver's own error, or the TLS error that it hides."""
    return _tls_failure(error) or _driver_error(error)


def _driver_error(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _tls_failure(error: BaseException) -> ssl.SSLError | None:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLError):
            return link
        link = link.__cause__
    return None


def _number(error: BaseException) -> int | None:
    """The MySQL error number, if there is one."""
    arguments = _driver_error(error).args
    return arguments[0] if arguments and isinstance(arguments[0], int) else None
