"""What a process needs of the cache: the database's entries, copies of them, and the watch for changed ones."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import LOCAL_MODEL_PREFIX
from app.config.settings import CacheSettings
from app.language.accept import Language
from app.runtime.background import running
from app.services.cache.invalidation import CacheInvalidator
from app.services.cache.memory import MemoryCache
from app.services.cache.reclassification import what_has_changed
from app.services.cache.redis import RedisCache
from app.services.cache.service import CacheService
from app.services.cache.tiers import CacheTiers
from app.services.redis import RedisClient
from app.services.request_log.rollups import Rollups


@asynccontextmanager
async def open_cache(
    settings: CacheSettings,
    engine: AsyncEngine,
    *,
    redis: RedisClient | None,
    rollups: Rollups,
    model: str,
    language: Language | None,
) -> AsyncIterator[CacheService]:
    """Keep copies of entries for the length of the block; at its end, wait for the look-ups under way.

    Args:
        settings: how many entries memory may hold, and how long they count.
        engine: the database.
        redis: where other processes find copies; None: nowhere.
        rollups: sums entries and hits up.
        model: what answers; entries of the local model count while that is the one.
        language: of its descriptions; None: that of each request.
    """
    if (command := await what_has_changed(engine, model, language)) is not None:
        logger.info(
            "the newest entries are not of this model or language; what asking again costs: {} --dry-run", command
        )
    copies = CacheTiers(
        memory=MemoryCache(settings.memory_entries),
        redis=None if redis is None else RedisCache(redis),
        trust_seconds=settings.stale_seconds,
        stale_max_seconds=settings.stale_max_seconds,
    )
    accepts_provisional = model.startswith(LOCAL_MODEL_PREFIX)
    cache = CacheService(
        engine,
        accepts_provisional=accepts_provisional,
        rollups=rollups,
        copies=copies,
        translated=language is None,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cache.close)
        if copies.are_kept:
            invalidator = CacheInvalidator(engine, copies)
            await invalidator.look()
            await stack.enter_async_context(running(invalidator.run(), name="cache-invalidation"))
        yield cache
