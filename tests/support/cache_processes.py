"""What one process of the service has of the cache, for tests in which several share a database."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.database.heartbeat import Heartbeat
from app.services.cache.entry import CachedResult
from app.services.cache.invalidation import CacheInvalidator
from app.services.cache.memory import MemoryCache
from app.services.cache.service import CacheService
from app.services.cache.tiers import CacheTiers
from app.services.classification.store import ClassificationStore
from tests.support.databases import rollups_for
from tests.support.spending import bill_for, spending_for
from tests.support.spools import no_spool

IMAGE = "a" * 64
# A busy machine may take the real five seconds for two lines of a test.
LONG_TRUST_SECONDS = 600.0
LOCAL = "local/efficientnet-lite2/efda6a2d"


def result(category: Category, confidence: float = 0.87654321) -> ModelResult:
    return ModelResult(category, confidence, f"a photo of {category}", {"answer": category.value})


def service(engine: AsyncEngine, *, local: bool = False) -> CacheService:
    return CacheService(engine, accepts_provisional=local, rollups=rollups_for(engine))


async def save(cache: CacheService, image_hash: str, answer: ModelResult, *, model: str) -> CachedResult:
    """Store a model's answer as the process of `cache` does."""
    engine = cache._engine
    store = ClassificationStore(
        engine,
        heartbeat=Heartbeat(engine),
        cache=cache,
        rollups=cache._rollups,
        spending=spending_for(engine),
        spool=no_spool(),
    )
    return await store.save_and_release(image_hash, answer, model=model, photo_format="jpg", bill=bill_for(engine))


class Process:
    """What one process of the service has: its copies, its watch, its cache."""

    def __init__(self, engine: AsyncEngine, *, local: bool = False, trust_seconds: float = LONG_TRUST_SECONDS) -> None:
        self.memory = MemoryCache(1000)
        self.copies = CacheTiers(memory=self.memory, trust_seconds=trust_seconds)
        self.watch = CacheInvalidator(engine, self.copies)
        self.cache = CacheService(engine, accepts_provisional=local, rollups=rollups_for(engine), copies=self.copies)


async def started(engine: AsyncEngine, *, local: bool = False) -> Process:
    process = Process(engine, local=local)
    await process.watch.look()
    return process
