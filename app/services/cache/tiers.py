"""The copies of cache entries outside the database, and what must not be taken from them.

Entries change by hand (`PUT` and `DELETE /cache/...`), and when a model's answer replaces one of the local model; each
time the database notes it in a table of changes. Three rules keep an old copy from being an answer:

1. Copies count only for TRUST_SECONDS after the start of a successful look at the table of changes.
2. A hash that was changed in the last WINDOW_SECONDS has no copy in memory: nothing that was read before the change
   can be kept after it, since no read takes that long.
3. A hash that was changed in the last MEMORY_OF_CHANGES is never looked up in Redis and not written to it, so it does
   not matter what Redis remembers after a restart or a failover: its entries live for a day at most.
"""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from loguru import logger

from app.services.cache.entry import CachedResult
from app.services.cache.memory import MemoryCache
from app.services.cache.redis import TIME_TO_LIVE_SECONDS, RedisCache

TRUST_SECONDS = 5.0
# Far above one attempt of a transaction (8 s) and the age at which a change becomes visible.
WINDOW_SECONDS = 60
WINDOW = timedelta(seconds=WINDOW_SECONDS)
MEMORY_OF_CHANGES = timedelta(seconds=TIME_TO_LIVE_SECONDS + 3600)
# 20 MB. More changes than this are a task for an empty table (docs/configuration.md); Redis rests for a day then.
MAX_CHANGES = 100_000


class CacheTiers:
    """Memory first, then Redis; either may be missing, and neither is ever the only place of an entry."""

    def __init__(self, *, memory: MemoryCache | None = None, redis: RedisCache | None = None) -> None:
        self._memory = MemoryCache(0) if memory is None else memory
        self._redis = redis
        self._trusted_until = 0.0
        # Hash -> when it was changed, by the database's clock.
        self._recent: dict[str, datetime] = {}
        self._changed: dict[str, datetime] = {}
        self._now: datetime | None = None
        self._redis_rests_until: datetime | None = None

    @property
    def are_kept(self) -> bool:
        """Whether there can be copies at all, so that changes have to be watched."""
        return self._memory.is_on or self._redis is not None

    @property
    def memory_of_changes(self) -> timedelta:
        """How long changes matter here."""
        return WINDOW if self._redis is None else MEMORY_OF_CHANGES

    @property
    def are_trusted(self) -> bool:
        return time.monotonic() < self._trusted_until

    def peek(self, image_hash: str) -> CachedResult | None:
        """Return the entry from memory, or None when only a longer look can tell."""
        if time.monotonic() >= self._trusted_until:
            return None
        return self._memory.get(image_hash)

    async def find(self, image_hashes: Iterable[str]) -> dict[str, CachedResult]:
        """Return what Redis knows, which memory then knows too."""
        if self._redis is None:
            return {}
        found = await self._redis.get_many(self._allowed_in_redis(image_hashes))
        # A change may have become known meanwhile.
        entries = {each: found[each] for each in self._allowed_in_redis(found)}
        self.keep_in_memory(entries)
        return entries

    async def keep(self, entries: Mapping[str, CachedResult]) -> None:
        """Keep entries that were just read from the database or committed to it, and that count for all models."""
        self.keep_in_memory(entries)
        if self._redis is not None:
            await self._redis.set_many({each: entries[each] for each in self._allowed_in_redis(entries)})

    async def forget(self, image_hash: str) -> None:
        """Forget an entry that this process has just changed; the other processes learn it from the database."""
        if self._now is not None:
            self._remember({image_hash: self._now})
        if self._redis is not None:
            await self._redis.forget([image_hash])

    async def learn(self, changes: Mapping[str, datetime], *, now: datetime, looked_at: float) -> None:
        """Take note of the changes in the database since the last look, at least those of the last minute.

        Args:
            changes: hash -> when it was changed.
            now: the database's time.
            looked_at: `time.monotonic()` before the look.
        """
        self._now = now
        if len(changes) > MAX_CHANGES:
            self.forget_everything(why="too many changes at once")
            return
        self._remember(changes)
        self._trusted_until = looked_at + TRUST_SECONDS
        if self._redis is None:
            return
        # Again and again for a minute: a process that had not yet learnt of it may write the old entry once more.
        await self._redis.forget(self._recent)
        await self._redis.connect(forget=self._changed)

    def forget_everything(self, *, why: str) -> None:
        """Empty memory, and leave Redis alone until what it holds now has expired."""
        logger.warning("cache: {}, memory is emptied", why)
        self._trusted_until = 0.0
        self._memory.clear()
        self._rest_redis()

    def _remember(self, changes: Mapping[str, datetime]) -> None:
        for image_hash in changes:
            self._memory.forget(image_hash)
        _merge(self._recent, changes, self._now, WINDOW)
        if self._redis is not None:
            _merge(self._changed, changes, self._now, MEMORY_OF_CHANGES)
            if len(self._changed) > MAX_CHANGES:
                self._rest_redis()

    def _rest_redis(self) -> None:
        if self._redis is not None and self._now is not None:
            logger.warning("cache: too many changes to tell what Redis may still know, it is not used for a day")
            self._changed.clear()
            self._redis_rests_until = self._now + MEMORY_OF_CHANGES

    def keep_in_memory(self, entries: Mapping[str, CachedResult]) -> None:
        """Keep entries that were just read or committed here only, not in Redis."""
        if self._memory.is_on and self.are_trusted:
            for image_hash, entry in entries.items():
                if image_hash not in self._recent:
                    self._memory.put(image_hash, entry)

    def _allowed_in_redis(self, image_hashes: Iterable[str]) -> list[str]:
        if not self.are_trusted or self._redis_rests:
            return []
        return [each for each in image_hashes if each not in self._changed]

    @property
    def _redis_rests(self) -> bool:
        return self._redis_rests_until is not None and self._now is not None and self._now < self._redis_rests_until


def _merge(known: dict[str, datetime], changes: Mapping[str, datetime], now: datetime | None, kept: timedelta) -> None:
    """Add `changes`, and drop what is older than `kept`; the oldest stand first."""
    for image_hash, changed_at in changes.items():
        if known.get(image_hash) != changed_at:
            known.pop(image_hash, None)
            known[image_hash] = changed_at
    while known and now is not None:
        oldest = next(iter(known))
        if known[oldest] >= now - kept:
            return
        del known[oldest]
