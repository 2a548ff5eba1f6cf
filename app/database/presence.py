"""Whether a process still lives: it holds a lock that ends with it, however it ends, and others ask for that lock.

On MySQL and MariaDB it is a named lock on a connection of its own, on SQLite a lock on a file beside the database.
Only the server that keeps a lock can tell that it is free: the *witness*. Behind one address there may be several
servers (a cluster, a failover), each of which knows its own locks only; and some refuse named locks altogether.
"""

import asyncio
import contextlib
import fcntl
import os
import random
import secrets
from contextvars import Context
from pathlib import Path
from typing import Any, Protocol

from loguru import logger
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.transactions import is_passing, is_unreachable, reason

# A process that vanishes without a word (a power cut, a lost network) is given up by the server after this time.
SILENCE_SECONDS = 30
PING_SECONDS = 10
STEP_TIMEOUT_SECONDS = 8.0
# After KILL, the server may need a moment until it frees the lock of the old connection.
GET_LOCK_SECONDS = 2
RETRY_MAX_SECONDS = 0.3
# Every server that can be reached under one address differs from the others in one of these. (MySQL 9.6 lost MD5.)
_THIS_SERVER = "LEFT(SHA2(CONCAT_WS('/', @@hostname, @@port, @@datadir, @@server_id), 256), 32)"
# There is one kernel that keeps the locks on SQLite's files; SQLite's own locks allow no second one either.
_THE_KERNEL = "flock"


class Presence(Protocol):
    """The presence of this process, and a look at that of others.

    `holder` is this process' random name. `confirm_seconds` is how long a process has to be seen as gone until it is:
    time for a living one to take a lock again that it lost with its connection.
    """

    holder: str
    confirm_seconds: float

    async def announce(self) -> str | None:
        """Be present from now on; return the witness of it, or None while there is none. Failures are logged."""

    async def is_gone(self, connection: AsyncConnection, holder: str, witness: str | None) -> bool | None:
        """Return whether another process is gone; None if this connection's server cannot tell."""

    async def close(self) -> None:
        """Be present no longer."""


def create_presence(engine: AsyncEngine) -> Presence:
    """Return a presence of this process, not announced yet."""
    holder = secrets.token_hex(16)
    if engine.dialect.name == "sqlite":
        return LockedFile(Path(f"{engine.url.database}.holders").resolve(), holder)
    return NamedLock(engine, holder)


class NamedLock:
    """MySQL's GET_LOCK: the server frees it when the connection ends, which the kernel closes with the process."""

    confirm_seconds = 1.0

    def __init__(self, engine: AsyncEngine, holder: str) -> None:
        self.holder = holder
        self._engine = engine
        self._witness: str | None = None
        self._tried = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def announce(self) -> str | None:
        """Take the lock at the first call, and keep it; later calls do not wait."""
        if self._keeper is None:
            # In a context of its own: its log lines are not those of the request that happens to start it.
            self._keeper = asyncio.create_task(self._keep(), name="presence", context=Context())
        await self._tried.wait()
        return self._witness

    async def is_gone(self, connection: AsyncConnection, holder: str, witness: str | None) -> bool | None:
        """Ask this connection's server, if it is the witness."""
        if witness is None:
            return None
        query = f"SELECT CASE WHEN {_THIS_SERVER} = :witness THEN IS_FREE_LOCK(:name) END"
        is_free = await connection.scalar(text(query), {"witness": witness, "name": _lock_name(holder)})
        return None if is_free is None else bool(is_free)

    async def close(self) -> None:
        """Close the connection, and with it the lock."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
                    connection = await self._engine.connect()
                try:
                    await self._hold(connection)
                finally:
                    await connection.close()
            except Exception as error:  # noqa: BLE001 - such as a cluster that refuses named locks
                may_pass = isinstance(error, PoolTimeoutError) or is_passing(error) or is_unreachable(error)
                if self._witness is None and not may_pass:
                    logger.warning("no named lock can be taken ({}): leases end by expiry", reason(error))
                    return
            finally:
                was_present = self._witness is not None
                self._witness = None
                self._tried.set()
            if was_present:
                logger.warning("the connection that shows that this process lives was lost; opening another")
            else:
                await asyncio.sleep(random.uniform(0.5, 1) * RETRY_MAX_SECONDS)

    async def _hold(self, connection: AsyncConnection) -> None:
        """Take the lock and return, or raise, when the connection is lost."""
        raw: Any = (await connection.get_raw_connection()).driver_connection
        # It counts as none of the pool's connections: a pool of one would have none left.
        await connection.run_sync(lambda sync_connection: sync_connection.detach())
        take = text(f"SELECT GET_LOCK(:name, {GET_LOCK_SECONDS}), {_THIS_SERVER}")
        async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
            await connection.exec_driver_sql(f"SET SESSION wait_timeout = {SILENCE_SECONDS}")
            taken, witness = (await connection.execute(take, {"name": _lock_name(self.holder)})).one()
        if taken != 1:
            return
        self._witness = witness
        self._tried.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_SECONDS):
                    await raw.until_lost()
                    return
            async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
                await connection.exec_driver_sql("DO 0")


def _lock_name(holder: str) -> str:
    # Names belong to the whole server, not to our database; they have at most 64 characters.
    return f"image-classifier:{holder}"


class LockedFile:
    """flock on a file of this process' own: the kernel frees it with the process."""

    confirm_seconds = 0.0

    def __init__(self, folder: Path, holder: str) -> None:
        self.holder = holder
        self._folder = folder
        self._descriptor: int | None = None
        self._refused = False

    async def announce(self) -> str | None:
        """Make and lock the file at the first call, and remove the files of the dead."""
        if self._descriptor is None and not self._refused:
            try:
                self._folder.mkdir(exist_ok=True)
                for file in self._folder.iterdir():
                    _is_dead(file)
                self._descriptor = _locked(self._folder / self.holder)
            except OSError as error:
                # Some network and container file systems have no such locks.
                self._refused = True
                logger.warning("no file can be locked beside the database ({}): leases end by expiry", error.strerror)
        return None if self._descriptor is None else _THE_KERNEL

    async def is_gone(self, connection: AsyncConnection, holder: str, witness: str | None) -> bool | None:
        """Try the lock."""
        return _is_dead(self._folder / holder) if witness == _THE_KERNEL else None

    async def close(self) -> None:
        """Remove the file."""
        if self._descriptor is not None:
            (self._folder / self.holder).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _locked(file: Path) -> int:
    """Return a descriptor of a new file, locked."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another process may have taken it for a dead one's before it was locked.
            if file.exists():
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_dead(file: Path) -> bool | None:
    """Return whether nobody holds the file's lock, and remove it then; None where it is not ours to open."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
