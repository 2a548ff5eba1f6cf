"""What the service opens at its start and closes, in reverse order, at its end."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.clients.base import LOCAL_MODEL_PREFIX
from app.clients.registry import create_model_client
from app.config import Settings
from app.cores import available_cores
from app.database.engine import create_engine
from app.database.migrate import migrate, wait_for_database
from app.services.cache import CacheService
from app.services.classifier import ClassifierService
from app.services.health import HealthService
from app.services.request_log import RequestLogService
from app.services.request_recorder import RequestRecorder
from app.services.rollup_building import build_rollups
from app.services.rollups import Rollups
from app.services.stats import StatsService

# A photo at the limits takes up to 500 MB while it is decoded (app/photo), in each of several workers.
MAX_DECODERS = 2
# Uploads that a process takes in at once: 64 photos of 10 MB are 640 MB, 64 usual ones 26 MB.
MAX_UPLOADS = 64


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that requests use, built once per process."""

    settings: Settings
    upload_slots: asyncio.Semaphore
    request_log: RequestLogService
    classifier: ClassifierService
    stats: StatsService
    health: HealthService


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Open all resources; on leaving, finish what is under way (model calls, log rows) and close them.

    Raises:
        AppError: the database or the model is not usable.
    """
    async with AsyncExitStack() as stack:
        engine = create_engine(settings)
        stack.push_async_callback(engine.dispose)
        if settings.database.migrate_on_start:
            await migrate(engine, settings)
        else:
            await wait_for_database(engine, settings)
        await build_rollups(engine, settings.statistics.timezone)
        rollups = Rollups(engine.dialect.name, settings.statistics.timezone)

        model_client = create_model_client(settings.model)
        stack.push_async_callback(model_client.close)
        await model_client.start()

        decoder = ThreadPoolExecutor(min(available_cores(), MAX_DECODERS), thread_name_prefix="decode")
        stack.callback(decoder.shutdown)

        recorder = RequestRecorder(engine, log_enabled=settings.statistics.log_enabled, rollups=rollups)
        stack.push_async_callback(recorder.close)

        classifier = ClassifierService(
            cache=CacheService(
                engine,
                accepts_provisional=model_client.model.startswith(LOCAL_MODEL_PREFIX),
                rollups=rollups,
            ),
            recorder=recorder,
            model_client=model_client,
            decoder=decoder,
            image_settings=settings.image,
        )
        stack.push_async_callback(classifier.close)

        request_log = RequestLogService(engine, settings.statistics.timezone)
        if settings.statistics.log_retention_days:
            retention = asyncio.create_task(request_log.keep_short(settings.statistics.log_retention_days))
            stack.push_async_callback(_cancel, retention)

        yield Resources(
            settings=settings,
            upload_slots=asyncio.Semaphore(MAX_UPLOADS),
            request_log=request_log,
            classifier=classifier,
            stats=StatsService(engine, settings.statistics),
            health=HealthService(engine, model_client),
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
