"""What the service opens at its start and closes, in reverse order, at its end."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.clients.registry import create_model_client
from app.config import Settings
from app.database.engine import create_engine
from app.database.migrate import migrate
from app.services.cache import CacheService
from app.services.classifier import ClassifierService
from app.services.health import HealthService
from app.services.request_log import keep_log_short
from app.services.request_recorder import RequestRecorder
from app.services.stats import StatsService


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that requests use, built once per process."""

    settings: Settings
    engine: AsyncEngine
    model_client: ModelClient
    recorder: RequestRecorder
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

        model_client = create_model_client(settings.model)
        stack.push_async_callback(model_client.close)
        await model_client.start()

        decoder = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="decode")
        stack.callback(decoder.shutdown)

        recorder = RequestRecorder(engine, log_enabled=settings.statistics.log_enabled)
        stack.push_async_callback(recorder.close)

        classifier = ClassifierService(
            cache=CacheService(engine, accepts_provisional=model_client.provisional),
            recorder=recorder,
            model_client=model_client,
            decoder=decoder,
            image_settings=settings.image,
        )
        stack.push_async_callback(classifier.close)

        if settings.statistics.log_retention_days:
            retention = asyncio.create_task(keep_log_short(engine, settings.statistics.log_retention_days))
            stack.push_async_callback(_cancel, retention)

        yield Resources(
            settings=settings,
            engine=engine,
            model_client=model_client,
            recorder=recorder,
            classifier=classifier,
            stats=StatsService(engine, settings.statistics),
            health=HealthService(engine, model_client),
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
