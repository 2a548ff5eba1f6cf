"""What a process needs to classify photos: the right to call the model, and what becomes of its answers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.config.settings import Settings
from app.database.heartbeat import Heartbeat
from app.runtime.fair_queue import FairQueue
from app.services.cache.service import CacheService
from app.services.classification.asking import ModelAsking
from app.services.classification.fallbacks import Candidate, Role
from app.services.classification.local_first import LocalFirst
from app.services.classification.service import ClassifierService
from app.services.classification.store import ClassificationStore
from app.services.classification.translating import Translating
from app.services.near_duplicates.service import NearDuplicates
from app.services.photos import PhotoPreparer
from app.services.request_log.lifespan import RequestLog
from app.services.spending.service import Spending
from app.services.spool.service import Spool


@asynccontextmanager
async def open_classifier(
    settings: Settings,
    engine: AsyncEngine,
    heartbeat: Heartbeat,
    *,
    cache: CacheService,
    log: RequestLog,
    spool: Spool,
    model_client: ModelClient,
    fallbacks: Mapping[str, ModelClient],
    local_first: LocalFirst | None,
    decoder: FairQueue,
    spending: Spending,
) -> AsyncIterator[ClassifierService]:
    """Classify photos for the length of the block; at its end, wait for the model calls under way.

    Args:
        settings: what photos are taken, and when another model is asked.
        engine: the database.
        heartbeat: that of this process.
        cache: what is known already.
        log: of requests and their sums.
        spool: takes answers that the database does not.
        model_client: the model of the service, started.
        fallbacks: those that are asked where it cannot answer, by name, started.
        local_first: has the local model look before any of them; None: they are asked at once.
        decoder: prepares photos for them.
        spending: what new photos may cost.
    """
    preparer = PhotoPreparer(decoder, settings.image)
    store = ClassificationStore(
        engine, heartbeat=heartbeat, cache=cache, rollups=log.rollups, spending=spending, spool=spool
    )
    asking = ModelAsking(
        [Candidate(model_client), *(Candidate(client, name, Role.FALLBACK) for name, client in fallbacks.items())],
        local_first=local_first,
        falls_back_on_refusal=settings.model.falls_back_on_refusal,
        preparer=preparer,
        store=store,
        spending=spending,
    )
    classifier = ClassifierService(
        cache=cache,
        recorder=log.recorder,
        asking=asking,
        preparer=preparer,
        store=store,
        near_duplicates=(
            NearDuplicates(engine, cache=cache, rollups=log.rollups) if settings.cache.near_duplicates else None
        ),
        translating=Translating(settings.model, cache=cache, store=store, asking=asking, preparer=preparer),
    )
    try:
        yield classifier
    finally:
        await classifier.close()
