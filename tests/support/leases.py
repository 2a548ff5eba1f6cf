"""Leases as the tests see them: of processes that live, of those that are gone, and their rows."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelResult
from app.clients.errors import ModelTimeout
from app.database.heartbeat import Heartbeat
from app.database.statements import seconds_from_now
from app.database.tables.classification import ModelCallLease
from app.database.tables.heartbeat import ProcessHeartbeat
from app.services.cache.entry import CachedResult
from app.services.cache.service import CacheService
from app.services.classification.outcomes import Claimed
from app.services.classification.store import ClassificationStore
from app.services.spending.bill import Bill
from app.services.spool.service import Spool
from tests.support.databases import rollups_for
from tests.support.spending import bill_for, spending_for
from tests.support.spools import no_spool

IMAGE = "a" * 64
# Waits end as soon as what they wait for is there; this is for a machine that is busy with other things.
PATIENCE_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Process:
    """What a process has of its own."""

    heartbeat: Heartbeat
    store: ClassificationStore

    async def claim(self, image_hash: str = IMAGE) -> bool:
        """Try to get the lease."""
        return isinstance(await self.store.claim_or_find(image_hash, self.bill()), Claimed)

    def bill(self) -> Bill:
        """One of calls that cost nothing."""
        return bill_for(self.store._engine)

    async def release(self, image_hash: str = IMAGE) -> None:
        """Give the lease back, if this process has it."""
        await self.store.release(image_hash, self.bill())

    async def save(self, result: ModelResult, image_hash: str = IMAGE, *, model: str = "m") -> CachedResult:
        """Store a model's answer."""
        return await self.store.save_and_release(image_hash, result, model=model, photo_format="jpg", bill=self.bill())

    async def is_held_up(self, seconds: float) -> bool:
        """Whether it waits for another process' lease, and gets nothing within that time."""
        try:
            await self.store.wait(IMAGE, time.monotonic() + seconds)
        except ModelTimeout:
            return True
        return False


@asynccontextmanager
async def process(engine: AsyncEngine, *, local: bool = False, spool: Spool | None = None) -> AsyncIterator[Process]:
    """A process that beats all the time; without a `spool` it has one that takes nothing."""
    spool = spool or no_spool()
    rollups = rollups_for(engine)
    cache = CacheService(engine, accepts_provisional=local, rollups=rollups)
    heartbeat = Heartbeat(engine)
    store = ClassificationStore(
        engine,
        heartbeat=heartbeat,
        cache=cache,
        rollups=rollups,
        spending=spending_for(engine, spool),
        spool=spool,
    )
    try:
        with heartbeat.hold():
            yield Process(heartbeat, store)
    finally:
        await store.close()
        await heartbeat.close()


def soon() -> float:
    return time.monotonic() + PATIENCE_SECONDS


async def rows(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(ModelCallLease))).all())


async def put_row(engine: AsyncEngine, *, owner: str = "f" * 32, image_hash: str = IMAGE) -> None:
    """A lease of a process that is no more, when nothing else is said."""
    async with engine.begin() as connection:
        await connection.execute(insert(ModelCallLease).values(image_hash=image_hash, owner=owner))


async def age_heartbeats(engine: AsyncEngine) -> None:
    """As if no process had beaten for ten seconds."""
    beat_at: ColumnElement[Any] = literal_column(seconds_from_now(engine.dialect.name, -10))
    async with engine.begin() as connection:
        await connection.execute(update(ProcessHeartbeat).values(beat_at=beat_at))
