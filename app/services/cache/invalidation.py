"""Learns within a second which entries were changed by hand, in whichever process, and makes the copies forget them.

It looks at a window of the table of changes by the database's clock, not for what is new since a mark: a change
becomes visible some time after it got its time and its id, and forgetting it twice is harmless.
"""

import asyncio
import time
from datetime import datetime, timedelta

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.tables.classification import CacheChange
from app.database.tables.columns import UtcDateTime
from app.database.transactions import read
from app.runtime.background import OutageLog, every
from app.services.cache.tiers import MAX_CHANGES, WINDOW, CacheTiers

LOOK_INTERVAL_SECONDS = 1.0
# As for a heartbeat. With the interval this is less than CACHE_STALE_SECONDS: hits never wait for a database that is
# silent.
LOOK_TIMEOUT_SECONDS = 2.0
# A look that ends this long after its time has run out says that the process stood still, and nothing of the database.
STOOD_STILL_SECONDS = 1.0
# Rows of the table are kept this long: a process that was cut off for less keeps its memory.
CHANGES_KEPT = timedelta(hours=1)

_database_time = func.current_timestamp(type_=UtcDateTime())


class CacheInvalidator:
    """Looks every second, for as long as `run` runs."""

    def __init__(self, engine: AsyncEngine, copies: CacheTiers) -> None:
        self._engine = engine
        self._copies = copies
        self._last_time: datetime | None = None
        self._outage = OutageLog(
            "cache: changes cannot be watched, memory answers for some time and says so",
            recovered="cache: changes are watched again",
        )

    async def run(self) -> None:
        """Look every second until the task is cancelled."""
        await every(LOOK_INTERVAL_SECONDS, self._look, outage=self._outage)

    async def look(self) -> None:
        """Look once; a failure is logged, and copies soon count as stale unless a later look succeeds."""
        with self._outage.guard():
            await self._look()

    async def _look(self) -> None:
        looked_at = time.monotonic()
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
                now, changes = await read(self._engine, self._select_changes, max_attempts=1)
        except Exception:
            if time.monotonic() - looked_at < LOOK_TIMEOUT_SECONDS + STOOD_STILL_SECONDS:
                self._copies.look_failed()
            raise
        last_time, self._last_time = self._last_time, now
        if last_time is not None and now - last_time > CHANGES_KEPT - WINDOW:
            self._copies.forget_everything(why="the database was away too long")
        await self._copies.learn(changes, now=now, looked_at=looked_at)

    async def _select_changes(self, connection: AsyncConnection) -> tuple[datetime, dict[str, datetime]]:
        """Return the database's time, and what was changed since the last look or in the last minute."""
        last_time: datetime = self._last_time or (await connection.execute(select(_database_time))).scalar_one()
        changes = (
            select(CacheChange.image_hash, CacheChange.changed_at)
            .where(CacheChange.changed_at >= last_time - WINDOW)
            .limit(MAX_CHANGES + 1)
            .subquery()
        )
        clock = select(literal(""), _database_time)
        rows = (await connection.execute(union_all(clock, select(changes)))).all()
        ordered = sorted((changed_at, image_hash) for image_hash, changed_at in rows)
        # The clock has the empty hash.
        times = {image_hash: changed_at for changed_at, image_hash in ordered}
        return times.pop(""), times
