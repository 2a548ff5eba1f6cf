"""What the dashboard shows, computed once for all viewers, and not at all without viewers.

It comes in parts, each as its JSON. A viewer gets the parts that exist, then each that has changed; one who reads
slowly misses states in between, and no more than one of each part waits for a viewer.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

from pydantic_core import to_json

from app.categories import CATEGORY_TEXTS
from app.errors import AppError, DatabaseUnavailable, ServerBusy
from app.runtime.background import OutageLog, cancel, every, spawn
from app.services.health import DatabaseState, HealthService
from app.services.statistics.cascade import CascadeFigures
from app.services.statistics.service import StatsService
from app.services.statistics.shares import Days
from app.services.statistics.spending import SpendingGroup, SpendingShare
from app.services.statistics.timeseries import Bucket

REFRESH_SECONDS = 2.0
# Each viewer keeps a connection open.
MAX_VIEWERS = 200
TOP_ENTRIES = 8
# Enough to tell images apart and to find one by; who sees a screen need not be able to ask for it.
HASH_PREFIX_DIGITS = 10


class Viewer:
    """Made by `DashboardFeed.watch`; `ended` is done when the service leaves."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: dict[str, str] = {}
        self._arrived = asyncio.Event()

    def offer(self, parts: Mapping[str, str]) -> None:
        """Take parts, in place of older ones of the same names."""
        self._waiting |= parts
        self._arrived.set()

    def end(self) -> None:
        """Say that nothing will come any more."""
        if not self.ended.done():
            self.ended.set_result(None)

    async def next(self) -> dict[str, str]:
        """Wait for parts, and return them: name -> JSON."""
        await self._arrived.wait()
        self._arrived.clear()
        parts, self._waiting = self._waiting, {}
        return parts


class DashboardFeed:
    """One for each process."""

    def __init__(self, stats: StatsService, health: HealthService) -> None:
        self._stats = stats
        self._health = health
        self._viewers: set[Viewer] = set()
        self._producer: asyncio.Task[None] | None = None
        self._parts: dict[str, str] = {}
        self._is_leaving = False
        # Name -> how it is computed, and after how many seconds again.
        self._sources: dict[str, tuple[Callable[[], Awaitable[Any]], float]] = {
            "today": (self._today, REFRESH_SECONDS),
            "categories": (self._categories, 4.0),
            "cache": (stats.cache_efficiency, 4.0),
            "spending": (self._spending, 4.0),
            "cascade": (self._cascade, 4.0),
            "users": (lambda: stats.top_users(TOP_ENTRIES), 4.0),
            "images": (self._images, 4.0),
            "accuracy": (stats.latest_accuracy, 60.0),
            "15min": (lambda: stats.latest_series(Bucket.QUARTER_HOUR), 4.0),
            "hour": (lambda: stats.latest_series(Bucket.HOUR), 10.0),
            # The largest by far: the sums of thirty days.
            "day": (lambda: stats.latest_series(Bucket.DAY), 60.0),
        }
        self._outages = {
            name: OutageLog(f"dashboard: {name} cannot be computed", recovered=f"dashboard: {name} is computed again")
            for name in self._sources
        }

    @contextlib.contextmanager
    def watch(self) -> Iterator[Viewer]:
        """Watch for the length of the block; to be used in the event loop.

        Raises:
            ServerBusy: too many watch already, or the service is about to end.
        """
        if self._is_leaving or len(self._viewers) >= MAX_VIEWERS:
            raise ServerBusy
        viewer = Viewer()
        self._viewers.add(viewer)
        if self._producer is None:
            refresh = partial(self._refresh, dict.fromkeys(self._sources, 0.0))
            outage = OutageLog("dashboard: nothing can be computed", recovered="dashboard: parts are computed again")
            self._producer = spawn(
                every(REFRESH_SECONDS, refresh, outage=outage, first_after_seconds=0), name="dashboard"
            )
        elif self._parts:
            viewer.offer(self._parts)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._stop()

    def end_streams(self) -> None:
        """End all streams, and take no more viewers: the service is about to end."""
        self._is_leaving = True
        for viewer in self._viewers:
            viewer.end()

    async def close(self) -> None:
        """Stop computing."""
        producer = self._producer
        self.end_streams()
        self._stop()
        if producer is not None:
            await cancel(producer)

    def _stop(self) -> None:
        if self._producer is not None:
            self._producer.cancel()
        self._producer = None
        self._parts = {}

    async def _refresh(self, due: dict[str, float]) -> None:
        """Compute what is due, and offer each part when it is there.

        Raises:
            AppError: the database is away; what is shown stays.
        """
        health = await self._health.check()
        self._publish("health", {"database": health.database, "model": health.model})
        if health.database is DatabaseState.DISCONNECTED:
            raise DatabaseUnavailable
        for name, (compute, seconds) in self._sources.items():
            if time.monotonic() < due[name]:
                continue
            # A bug in one part keeps no other from its turn.
            with self._outages[name].guard(passes=(AppError,)):
                self._publish(name, await compute())
            due[name] = time.monotonic() + seconds - REFRESH_SECONDS / 2

    def _publish(self, name: str, value: Any) -> None:
        text = to_json(value).decode()
        if self._parts.get(name) == text:
            return
        self._parts[name] = text
        for viewer in self._viewers:
            viewer.offer({name: text})

    async def _today(self) -> dict[str, Any]:
        day = self._stats.today()
        return {"day": day, "figures": await self._stats.day(day), "errors": await self._stats.errors(day)}

    async def _spending(self) -> list[SpendingShare]:
        today = self._stats.today()
        return (await self._stats.spending(SpendingGroup.MODEL, Days(today, today)))[:TOP_ENTRIES]

    async def _cascade(self) -> CascadeFigures:
        today = self._stats.today()
        return await self._stats.cascade(Days(today, today))

    async def _categories(self) -> list[dict[str, Any]]:
        """All eight, also those without requests, with their names."""
        today = self._stats.today()
        shares = {share.category: share for share in await self._stats.category_distribution(Days(today, today))}
        return [
            {
                "category": category,
                "chinese": names.chinese,
                "english": names.english,
                "count": shares[category].count if category in shares else 0,
                "percentage": shares[category].percentage if category in shares else 0.0,
            }
            for category, names in CATEGORY_TEXTS.items()
        ]

    async def _images(self) -> list[dict[str, Any]]:
        return [
            {
                "hash": image.image_hash[:HASH_PREFIX_DIGITS],
                "category": image.category,
                "hit_count": image.hit_count,
                "last_hit_at": image.last_hit_at,
            }
            for image in await self._stats.top_images(TOP_ENTRIES)
        ]
