"""What a process needs to classify photos: the right to call the model, and what becomes of its answers."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.config.settings import ImageSettings
from app.database.heartbeat import Heartbeat
from app.services.cache.service import CacheService
from app.services.classification.service import ClassifierService
from app.services.classification.store import ClassificationStore
from app.services.request_log.lifespan import RequestLog
from app.services.spending.service import Spending


@asynccontextmanager
async def open_classifier(
    settings: ImageSettings,
    engine: AsyncEngine,
    heartbeat: Heartbeat,
    *,
    cache: CacheService,
    log: RequestLog,
    model_client: ModelClient,
    fallback: ModelClient | None,
    decoder: ThreadPoolExecutor,
    spending: Spending,
) -> AsyncIterator[ClassifierService]:
    """Classify photos for the length of the block; at its end, wait for the model calls under way.

    Args:
        settings: what photos are taken.
        engine: the database.
        heartbeat: that of this process.
        cache: what is known already.
        log: of requests and their sums.
        model_client: the model of the service, started.
        fallback: the model that is asked when the budget is used up, started; None: none is.
        decoder: prepares photos for them.
        spending: what new photos may cost.
    """
    classifier = ClassifierService(
        cache=cache,
        recorder=log.recorder,
        model_client=model_client,
        decoder=decoder,
        image_settings=settings,
        store=ClassificationStore(engine, heartbeat=heartbeat, cache=cache, rollups=log.rollups, spending=spending),
        spending=spending,
        fallback=fallback,
    )
    try:
        yield classifier
    finally:
        await classifier.close()
