"""The copies of cache entries outside the database, and the rule that keeps an old copy from being an answer.

Entries change by hand (`PUT` and `DELETE /cache/...`), and when a model's answer replaces one of the local model. The
same transaction notes the hash and the time in the change feed (table `cache_change`), which each process reads once a
second. Times below are of the database's clock.

1. Copies are read and written only for `trust_seconds` (CACHE_STALE_SECONDS) after the start of a successful look at
   the feed. A process that stood still for longer asks the database.
2. A hash with a change in the last WINDOW has no copy: none is kept in memory, taken from Redis or written to it.
3. A copy in Redis carries the time of its writer's last look (`as_of`), and counts for LIFETIME after it.

A process that does not know of a change has looked last before the change was visible, so an old copy that it writes
carries an earlier time. It does not matter how long that process, or Redis, was frozen meanwhile, or whether Redis was
restored from a backup. A change is visible less than WINDOW - LIFETIME (15 s) after its time, because an attempt at a
transaction ends after 3.5 s; so an old copy has stopped to count when rule 2 ends. The difference of the clocks of
several database servers (a cluster, a failover) is in these 15 s too.

Memory needs no times: each look makes it forget what was changed, and what was read before a change arrives within
WINDOW, since no read takes that long.

One exception: while looks fail, so that the database cannot be asked, memory goes on to answer until
`stale_max_seconds` (CACHE_STALE_MAX_SECONDS) after the last successful look. Such answers are marked as stale: a change
that another process has made since is not in them. Redis has no such time: what is there may be older still.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from loguru import logger

from app.services.cache.entry import CachedResult
from app.services.cache.memory import MemoryCache
from app.services.cache.redis import LIFETIME, RedisCache

TRUST_SECONDS = 5.0
STALE_MAX_SECONDS = 600.0
WINDOW = timedelta(seconds=60)
# 20 MB. More changes than this in a minute are a task for an empty table (docs/configuration.md).
MAX_CHANGES = 100_000


class CacheTiers:
    """Memory first, then Redis; either may be missing, and neither is ever the only place of an entry."""

    def __init__(
        self,
        *,
        memory: MemoryCache | None = None,
        redis: RedisCache | None = None,
        trust_seconds: float = TRUST_SECONDS,
        stale_max_seconds: float = STALE_MAX_SECONDS,
    ) -> None:
        self._memory = MemoryCache(0) if memory is None else memory
        self._redis = redis
        self._trust_seconds = trust_seconds
        self._stale_max_seconds = stale_max_seconds
        # time.monotonic() at the start of the last successful look, until when copies are trusted, and until when
        # memory answers all the same: in the past unless a look has failed since.
        self._looked_at: float | None = None
        self._trusted_until = 0.0
        self._stale_until = 0.0
        # Hash -> when it was changed.
        self._recent: dict[str, datetime] = {}
        self._now: datetime | None = None

    @property
    def are_kept(self) -> bool:
        """Whether there can be copies at all, so that changes have to be watched."""
        return self._memory.is_on or self._redis is not None

    @property
    def are_trusted(self) -> bool:
        return time.monotonic() < self._trusted_until

    def peek(self, image_hash: str) -> CachedResult | None:
        """Return the entry from memory, or None when only a longer look can tell."""
        now = time.monotonic()
        if now < self._trusted_until:
            return self._memory.get(image_hash)
        if now < self._stale_until and (entry := self._memory.get(image_hash)) is not None:
            return replace(entry, is_stale=True)
        return None

    async def find(self, image_hashes: Iterable[str]) -> dict[str, CachedResult]:
        """Return what Redis knows, which memory then knows too."""
        if self._redis is None:
            return {}
        found = await self._redis.get_many(self._allowed(image_hashes))
        # A change may have become known meanwhile.
        entries = {each: found[each].entry for each in self._allowed(found) if self._is_young(found[each].as_of)}
        self.keep_in_memory(entries)
        return entries

    async def keep(self, entries: Mapping[str, CachedResult]) -> None:
        """Keep entries that were just read from the database or committed to it, and that are not provisional."""
        self.keep_in_memory(entries)
        if self._redis is not None and self._now is not None:
            await self._redis.set_many({each: entries[each] for each in self._allowed(entries)}, as_of=self._now)

    def keep_in_memory(self, entries: Mapping[str, CachedResult]) -> None:
        """Keep entries that were just read or committed here only, not in Redis."""
        if self._memory.is_on:
            for image_hash in self._allowed(entries):
                self._memory.put(image_hash, entries[image_hash])

    def keep_unsaved(self, image_hash: str, entry: CachedResult) -> None:
        """Keep a new entry in memory that the database will have only when it is back."""
        if self._memory.is_on and time.monotonic() < max(self._trusted_until, self._stale_until):
            self._memory.put(image_hash, entry)

    def forget(self, image_hash: str) -> None:
        """Forget an entry that this process has just changed; the other processes learn it from the database."""
        if self._now is not None:
            self._remember({image_hash: self._now}, self._now)

    async def learn(self, changes: Mapping[str, datetime], *, now: datetime, looked_at: float) -> None:
        """Take note of the changes in the database since the last look, at least those of the last WINDOW.

        Args:
            changes: hash -> when it was changed.
            now: the database's time.
            looked_at: `time.monotonic()` before the look.
        """
        self._now = now
        if len(changes) > MAX_CHANGES:
            self.forget_everything(why="too many changes at once")
            return
        self._remember(changes, now)
        self._looked_at = looked_at
        self._trusted_until = looked_at + self._trust_seconds
        self._stale_until = 0.0
        if self._redis is not None:
            await self._redis.connect()

    def look_failed(self) -> None:
        """Take note that the database did not answer a look: memory may answer in its place."""
        if self._looked_at is not None:
            self._stale_until = self._looked_at + self._stale_max_seconds

    def forget_everything(self, *, why: str) -> None:
        """Empty memory, and use no copy until the next look that can be taken note of."""
        logger.warning("cache: {}, memory is emptied", why)
        self._looked_at = None
        self._trusted_until = self._stale_until = 0.0
        self._memory.clear()

    def _remember(self, changes: Mapping[str, datetime], now: datetime) -> None:
        """Forget what was changed, and drop changes older than WINDOW; the oldest stand first."""
        for image_hash, changed_at in changes.items():
            self._memory.forget(image_hash)
            if self._recent.get(image_hash) != changed_at:
                self._recent.pop(image_hash, None)
                self._recent[image_hash] = changed_at
        while self._recent and self._recent[oldest := next(iter(self._recent))] < now - WINDOW:
            del self._recent[oldest]

    def _allowed(self, image_hashes: Iterable[str]) -> list[str]:
        return [each for each in image_hashes if each not in self._recent] if self.are_trusted else []

    def _is_young(self, as_of: datetime) -> bool:
        # A clock that was set back makes copies of the future.
        return self._now is not None and abs(self._now - as_of) < LIFETIME
