"""What a process needs to classify photos: the leases of its calls to the model."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.config.settings import ImageSettings
from app.database.presence import create_presence
from app.services.cache.service import CacheService
from app.services.classification.lease import LeaseService
from app.services.classification.service import ClassifierService
from app.services.request_log.recorder import RequestRecorder


@asynccontextmanager
async def open_classifier(
    settings: ImageSettings,
    engine: AsyncEngine,
    *,
    cache: CacheService,
    recorder: RequestRecorder,
    model_client: ModelClient,
    decoder: ThreadPoolExecutor,
) -> AsyncIterator[ClassifierService]:
    """Classify photos for the length of the block; at its end, wait for the model calls under way.

    Args:
        settings: what photos are taken.
        engine: the database.
        cache: what is known already.
        recorder: logs what was answered.
        model_client: the model of the service, started.
        decoder: prepares photos for it.
    """
    leases = LeaseService(engine, create_presence(engine))
    classifier = ClassifierService(
        cache=cache,
        recorder=recorder,
        model_client=model_client,
        decoder=decoder,
        image_settings=settings,
        leases=leases,
    )
    try:
        yield classifier
    finally:
        await classifier.close()
        await leases.close()
