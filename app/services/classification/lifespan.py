"""What a process needs to classify photos: the right to call the model, and what becomes of its answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.config.settings import ImageSettings
from app.database.heartbeat import Heartbeat
from app.runtime.fair_queue import FairQueue
from app.services.cache.service import CacheService
from app.services.classification.service import ClassifierService
from app.services.classification.store import ClassificationStore
from app.services.request_log.lifespan import RequestLog


@asynccontextmanager
async def open_classifier(
    settings: ImageSettings,
    engine: AsyncEngine,
    heartbeat: Heartbeat,
    *,
    cache: CacheService,
    log: RequestLog,
    model_client: ModelClient,
    decoder: FairQueue,
) -> AsyncIterator[ClassifierService]:
    """Classify photos for the length of the block; at its end, wait for the model calls under way.

    Args:
        settings: what photos are taken.
        engine: the database.
        heartbeat: that of this process.
        cache: what is known already.
        log: of requests and their sums.
        model_client: the model of the service, started.
        decoder: prepares photos for it.
    """
    classifier = ClassifierService(
        cache=cache,
        recorder=log.recorder,
        model_client=model_client,
        decoder=decoder,
        image_settings=settings,
        store=ClassificationStore(engine, heartbeat=heartbeat, cache=cache, rollups=log.rollups),
    )
    try:
        yield classifier
    finally:
        await classifier.close()
