"""The one place where database work is retried, and where a driver's error becomes one of ours.

`read` and `write` take a function of a connection. It must be safe to run again from the start: a deadlock, a lock
timeout or a lost connection makes it run again in a new transaction. No request waits longer than TOTAL_TIMEOUT_SECONDS
for it; and none waits at all for a database that is known to be away (app/runtime/availability.py).
"""

import asyncio
import random
import sqlite3
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from loguru import logger
from pymysql.err import InterfaceError as DriverInterfaceError
from pymysql.err import MySQLError
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.engine import SQLITE_BEGIN_IMMEDIATE, availability_of
from app.database.mysql_connection import LOST_CONNECTION, SERVER_SHUTDOWN, TOO_MANY_CONNECTIONS
from app.errors import DatabaseUnavailable, ServerBusy

T = TypeVar("T")

MAX_ATTEMPTS = 4
TOTAL_TIMEOUT_SECONDS = 5.0
# A peer that has vanished (a failover, a dropped NAT entry) says nothing for hours. So the first attempt has not all of
# the time: what it leaves is enough for a second one on a new connection.
ATTEMPT_SHARE = 0.7
RETRY_AFTER_SECONDS = 2.0
# Error numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
_DEADLOCK = 1213
_LOCK_WAIT_TIMEOUT = 1205
_GALERA_CONFLICT_OR_NOT_READY = 1047
# What a node of a cluster says of a COMMIT that has lost to another node's (Group Replication), or in the moment when
# it finds itself cut off from the others (Galera).
_COMMIT_REFUSED = frozenset({1180, 3101})
# What a primary says that has become a replica; the next connection may lead to the new one.
_READ_ONLY = frozenset({1290, 1792, 1836})
# 1129: this host has broken off too many handshakes, as with a server that was frozen (max_connect_errors).
_REFUSES_US = frozenset({1044, 1045, 1049, 1129, 2026})
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
_AWAY = LOST_CONNECTION | TOO_MANY_CONNECTIONS | SERVER_SHUTDOWN
_RETRYABLE = _AWAY | _READ_ONLY | _COMMIT_REFUSED | {_DEADLOCK, _LOCK_WAIT_TIMEOUT, _GALERA_CONFLICT_OR_NOT_READY}


async def read(
    engine: AsyncEngine,
    work: Callable[[AsyncConnection], Awaitable[T]],
    *,
    max_attempts: int = MAX_ATTEMPTS,
    timeout_seconds: float | None = None,
    quietly: bool = False,
) -> T:
    """Run `work` in a transaction that only reads; the options are those of `with_retries`.

    Raises:
        DatabaseUnavailable: the database cannot be reached, also after retries, or does not answer in time.
        ServerBusy: no connection became free in time.
    """

    async def attempt(seconds: float) -> T:
        async with engine.connect() as connection, asyncio.timeout(seconds):
            await connection.execution_options(**{SQLITE_BEGIN_IMMEDIATE: False})
            # Nothing to commit: closing the connection ends the transaction.
            return await work(connection)

    return await with_retries(
        engine, attempt, max_attempts=max_attempts, timeout_seconds=timeout_seconds, quietly=quietly
    )


async def write(
    engine: AsyncEngine,
    work: Callable[[AsyncConnection], Awaitable[T]],
    *,
    timeout_seconds: float | None = None,
    quietly: bool = False,
) -> T:
    """Run `work` in a transaction and commit it; options and errors as with `read`."""

    async def attempt(seconds: float) -> T:
        async with engine.connect() as connection, asyncio.timeout(seconds):
            await connection.execution_options(**{SQLITE_BEGIN_IMMEDIATE: True})
            try:
                async with connection.begin():
                    return await work(connection)
            except DBAPIError as error:
                if _number(error) in _READ_ONLY:
                    await connection.invalidate()
                raise

    return await with_retries(engine, attempt, timeout_seconds=timeout_seconds, quietly=quietly)


async def with_retries(
    engine: AsyncEngine,
    attempt: Callable[[float], Awaitable[T]],
    *,
    max_attempts: int = MAX_ATTEMPTS,
    timeout_seconds: float | None = None,
    quietly: bool = False,
) -> T:
    """Return what `attempt` returns; it is tried again in a moment when what went wrong may pass.

    What went wrong is logged, unless `quietly`.

    Args:
        engine: the database.
        attempt: a transaction; it gets the seconds that it may take once it has a connection, and closes a connection
            on which they run out.
        max_attempts: how often it is tried at most.
        timeout_seconds: the time of all attempts, the pauses between them and the waits for connections, if not
            TOTAL_TIMEOUT_SECONDS; more than that only where no request waits.
        quietly: the caller tells what is amiss.

    Raises:
        DatabaseUnavailable, ServerBusy: as `read`.
    """
    availability = availability_of(engine)
    if availability is not None and availability.is_away:
        raise DatabaseUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS)
    if timeout_seconds is None:
        timeout_seconds = TOTAL_TIMEOUT_SECONDS
    seconds = timeout_seconds if max_attempts == 1 else timeout_seconds * ATTEMPT_SHARE
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    try:
        async with asyncio.timeout_at(deadline) if availability is None else availability.call(deadline):
            attempts = 1
            while True:
                try:
                    return await attempt(seconds)
                except PoolTimeoutError as error:
                    raise ServerBusy(retry_after_seconds=RETRY_AFTER_SECONDS) from error
                except (DBAPIError, MySQLError, sqlite3.Error, OSError) as error:
                    if availability is not None and _is_away(error):
                        availability.suspect()
                    _check_passing(error, is_last=attempts >= max_attempts, quietly=quietly)
                    if not quietly:
                        failure = _number(error) or type(error).__name__
                        logger.warning("database transaction attempt {} failed ({})", attempts, failure)
                await asyncio.sleep(random.uniform(0.5, 1.0) * 0.05 * 2**attempts)
                attempts += 1
    except TimeoutError as error:
        raise DatabaseUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from error


def _check_passing(error: Exception, *, is_last: bool, quietly: bool) -> None:
    """Return if another attempt makes sense.

    Raises:
        DatabaseUnavailable: the database is out of reach, and the last attempt was made or another would not help.
        Exception: `error`, which is none of an outage.
    """
    if is_passing(error):
        if is_last:
            raise DatabaseUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from error
        return
    if not is_unreachable(error):
        raise error
    if not quietly:
        logger.error("the database cannot be used: {}", reason(error))
    raise DatabaseUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from error


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed a moment later: deadlock, lock timeout, lost or silent connection.

    A time-out of ours is a TimeoutError, which is an OSError.
    """
    if _tls_failure(error) is not None:
        return False
    # The driver's own InterfaceError: the connection was closed under us.
    if _is_away(error) or _number(error) in _RETRYABLE:
        return True
    return isinstance(_driver_error(error), sqlite3.OperationalError) and "database is locked" in str(
        _driver_error(error)
    )


def _is_away(error: BaseException) -> bool:
    """Whether the server may be one that answers no call at all: a lost connection, silence, none that is free."""
    if isinstance(error, OSError | DriverInterfaceError) or _number(error) in _AWAY:
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


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
