"""What a process needs to put photos into batches, where the service's model has any and tasks are run here."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.base import ModelClient
from app.clients.batches.registry import has_batches, open_batches_of
from app.clients.llm.base import LLMClient
from app.config.settings import Settings
from app.database.heartbeat import Heartbeat
from app.database.retention import delete_in_batches, delete_regularly
from app.database.transactions import write
from app.runtime.background import running
from app.runtime.fair_queue import FairQueue
from app.services.batches.photos import BatchPhotos
from app.services.batches.rows import abandon, delete_old
from app.services.batches.runner import BatchRunner
from app.services.batches.spending import BatchSpending
from app.services.batches.steps import BatchSteps
from app.services.cache.service import CacheService
from app.services.classification.local_first import LocalFirst
from app.services.classification.similar import SimilarPhotos
from app.services.inference.service import InferenceService
from app.services.library.service import LibraryService
from app.services.near_duplicates.service import NearDuplicates
from app.services.photos import PhotoPreparer
from app.services.request_log.rollups import Rollups
from app.services.spending.service import Spending

CLEANING_SECONDS = 3600


@asynccontextmanager
async def open_batches(
    settings: Settings,
    engine: AsyncEngine,
    heartbeat: Heartbeat,
    *,
    client: ModelClient,
    local_first: LocalFirst | None,
    lasting_models: Sequence[str],
    cache: CacheService,
    rollups: Rollups,
    library: LibraryService,
    inference: InferenceService,
    decoder: FairQueue,
    spending: Spending,
    wake: Callable[[], None],
    is_worker: bool,
) -> AsyncIterator[None]:
    """Work on batches for the length of the block; what is under way then goes on in another process.

    Args:
        settings: how long photos wait.
        engine: the database.
        heartbeat: that of this process.
        client: the service's model.
        local_first: looks at photos before it, where there is one.
        lasting_models: whose answers are kept for good.
        cache: knows photos.
        rollups: of the request log.
        library: has the pictures.
        inference: reads them within the memory that there is.
        decoder: prepares them.
        spending: what they may cost.
        wake: has the runners of tasks look for those that are due now; never fails.
        is_worker: this process serves nothing.
    """
    if not (is_worker or settings.task.workers == "inside"):
        yield
        return

    names = inference.batched_model_names

    async def abandon_others(connection: AsyncConnection) -> int:
        return await abandon(connection, client.provider, names)

    if abandoned := await write(engine, abandon_others):
        logger.warning("{} batches of another provider are given up: LLM_PROVIDER is {}", abandoned, client.provider)
    if not has_batches(client) or not isinstance(client, LLMClient):
        yield
        return
    batches = open_batches_of(client)
    preparer = PhotoPreparer(decoder, settings.image)
    near_duplicates = NearDuplicates(engine, cache=cache, rollups=rollups) if settings.cache.near_duplicates else None
    steps = BatchSteps(
        engine,
        heartbeat,
        client=client,
        batches=batches,
        photos=BatchPhotos(
            client=client,
            local_first=local_first,
            library=library,
            inference=inference,
            cache=cache,
            lasting_models=lasting_models,
            preparer=preparer,
            similar=SimilarPhotos(near_duplicates, preparer),
        ),
        spending=BatchSpending(spending, client),
        names=names,
        wait_seconds=settings.task.batch_wait_seconds,
        wake=wake,
    )
    kept = timedelta(days=settings.task.keep_days)

    async def delete_rows(connection: AsyncConnection, rows: int) -> int:
        return await delete_old(connection, rows, kept)

    async def clean() -> None:
        await delete_in_batches(engine, delete_rows)

    try:
        async with (
            running(delete_regularly(clean, seconds=CLEANING_SECONDS, what="old batches"), name="batches-retention"),
            running(BatchRunner(engine, heartbeat, steps).run(), name="batches"),
        ):
            yield
    finally:
        await batches.close()
