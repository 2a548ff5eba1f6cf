"""Leases as the tests see them: of processes that live, of those that are gone, and their rows."""

import errno
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from sqlalchemy import ColumnElement, event, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.errors import ModelTimeout
from app.database import presence as presence_module
from app.database.presence import Presence, create_presence
from app.database.statements import Statement, seconds_from_now
from app.database.tables.classification import ModelCallLease
from app.services.classification.lease import LeaseService

IMAGE = "a" * 64
# Waits end as soon as what they wait for is there; this is for a machine that is busy with other things.
PATIENCE_SECONDS = 60


@asynccontextmanager
async def process(engine: AsyncEngine) -> AsyncIterator[tuple[LeaseService, Presence]]:
    """What a process has of its own."""
    presence = create_presence(engine)
    leases = LeaseService(engine, presence)
    try:
        yield leases, presence
    finally:
        await leases.close()


async def take(leases: LeaseService) -> bool:
    """Try to get the lease, with a look that finds nothing."""
    is_ours, found = await leases.take(IMAGE, Statement("SELECT 1 FROM (SELECT 1 AS one) AS one WHERE one = %s", (0,)))
    assert list(found) == []
    return is_ours


def soon() -> float:
    return time.monotonic() + PATIENCE_SECONDS


async def rows(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(ModelCallLease))).all())


async def put_row(
    engine: AsyncEngine, *, witness: str | None, seconds: int, image_hash: str = IMAGE, holder: str = "f" * 32
) -> None:
    """A lease of a process that is no more (or on a server that is not ours), ending in so many seconds."""
    expiry: ColumnElement[Any] = literal_column(seconds_from_now(engine.dialect.name, seconds))
    async with engine.begin() as connection:
        await connection.execute(
            insert(ModelCallLease).values(image_hash=image_hash, holder=holder, witness=witness, expires_at=expiry)
        )


async def expire(engine: AsyncEngine) -> None:
    expiry: ColumnElement[Any] = literal_column(seconds_from_now(engine.dialect.name, -1))
    async with engine.begin() as connection:
        await connection.execute(update(ModelCallLease).values(expires_at=expiry))


async def is_held_for(leases: LeaseService, seconds: float) -> bool:
    """Whether a process that waits gets nothing within that time."""
    try:
        await leases.wait(IMAGE, time.monotonic() + seconds)
    except ModelTimeout:
        return True
    return False


@contextmanager
def refusing_locks(engine: AsyncEngine) -> Iterator[None]:
    """A database server without named locks, or a file system without locks."""

    def refuse(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("GET_LOCK(", "NO_SUCH_FUNCTION("), parameters

    def refuse_file(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    event.listen(engine.sync_engine, "before_cursor_execute", refuse, retval=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(presence_module, "_locked", refuse_file)
            yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", refuse)
