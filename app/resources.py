"""What the service opens at its start and closes, in reverse order, at its end."""

import asyncio
import gc
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import LOCAL_MODEL_PREFIX
from app.clients.registry import create_model_client
from app.config.settings import Settings
from app.database.engine import connections_limit, create_engine, create_replica_engine
from app.database.heartbeat import Heartbeat
from app.database.migrate import migrate, wait_for_database
from app.database.replica import Replica
from app.errors import AppError
from app.observability import metrics, tracing
from app.observability.process_gauges import ProcessGauges
from app.runtime.background import running
from app.runtime.cgroups import available_cores
from app.runtime.memory_budget import UPLOAD_MEMORY_BYTES, MemoryBudget
from app.services.accounts.login_throttle import LoginThrottle
from app.services.accounts.passwords import PasswordHasher
from app.services.accounts.service import AccountService
from app.services.accounts.tokens import TokenIssuer, kept_secret_key
from app.services.cache.lifespan import open_cache
from app.services.cache.service import CacheService
from app.services.classification.service import ClassifierService
from app.services.classification.store import ClassificationStore
from app.services.events.feed import TaskEvents
from app.services.events.lifespan import open_events, open_signal
from app.services.health import HealthService
from app.services.inference.catalogue import ModelCatalogue
from app.services.inference.further_models import FurtherModels
from app.services.inference.results import InferenceResults
from app.services.inference.service import InferenceService
from app.services.library.service import LibraryService
from app.services.library.sweep import sweep_regularly
from app.services.photos import PhotoPreparer
from app.services.redis import open_redis
from app.services.request_log.backfill import build_rollups
from app.services.request_log.error_counts import ErrorCounts
from app.services.request_log.recorder import MAX_PENDING_ROWS, RequestRecorder
from app.services.request_log.rollups import Rollups
from app.services.request_log.service import RequestLogService
from app.services.statistics.dashboard import DashboardFeed
from app.services.statistics.service import StatsService
from app.services.tasks.lifespan import open_tasks
from app.services.tasks.service import TaskService
from app.storage import Storage, StorageError, open_storage

# A photo at the limits takes up to 500 MB while it is decoded (app/photo), in each of several workers.
MAX_DECODERS = 2
# Objects between two rounds of the garbage collector; Python's own 700 mean a round every ten requests.
GC_ALLOCATIONS = 20_000


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that requests use, built once per process."""

    settings: Settings
    upload_memory: MemoryBudget
    cache: CacheService
    request_log: RequestLogService
    classifier: ClassifierService
    stats: StatsService
    health: HealthService
    dashboard: DashboardFeed
    accounts: AccountService
    models: ModelCatalogue
    inference: InferenceService
    library: LibraryService
    task_events: TaskEvents
    tasks: TaskService


@asynccontextmanager
async def open_resources(settings: Settings, *, is_worker: bool = False) -> AsyncIterator[Resources]:
    """Open all resources; at the end, finish what is under way (model calls, log rows) and close them.

    Args:
        settings: of the service.
        is_worker: this process serves nothing and is there to run tasks.

    Raises:
        AppError: the database or the model is not usable.
    """
    async with AsyncExitStack() as stack:
        # After all else has ended, and counted.
        stack.push_async_callback(asyncio.to_thread, tracing.send_spans)
        stack.callback(metrics.flush)
        engine = await _open_database(settings, stack)
        replica = _open_replica(settings, engine, stack)
        rollups = Rollups(engine.dialect.name, settings.statistics.timezone)

        model_client = create_model_client(settings.model)
        stack.push_async_callback(model_client.close)
        await model_client.start()

        decoder = ThreadPoolExecutor(min(available_cores(), MAX_DECODERS), thread_name_prefix="decode")
        stack.callback(decoder.shutdown)

        recorder = RequestRecorder(
            engine,
            rollups=rollups,
            log_enabled=settings.statistics.log_enabled,
            durability=settings.statistics.log_durability,
            cost_per_call=settings.statistics.cost_per_call,
        )
        stack.push_async_callback(recorder.close)
        gauges = ProcessGauges(
            engine,
            connections_limit=connections_limit(settings),
            queued_rows=lambda: recorder.pending_rows,
            queue_limit_rows=MAX_PENDING_ROWS,
        )
        await stack.enter_async_context(running(gauges.run(), name="gauges"))

        accepts_provisional = model_client.model.startswith(LOCAL_MODEL_PREFIX)
        redis = await stack.enter_async_context(open_redis(settings))
        cache = await stack.enter_async_context(
            open_cache(
                engine,
                memory_entries=settings.cache.memory_entries,
                redis=redis,
                rollups=rollups,
                accepts_provisional=accepts_provisional,
            )
        )
        heartbeat = Heartbeat(engine)
        stack.push_async_callback(heartbeat.close)

        classifier = ClassifierService(
            cache=cache,
            recorder=recorder,
            model_client=model_client,
            decoder=decoder,
            image_settings=settings.image,
            store=ClassificationStore(engine, heartbeat=heartbeat, cache=cache, rollups=rollups),
        )
        stack.push_async_callback(classifier.close)

        request_log = RequestLogService(engine, settings.statistics.timezone)
        if settings.statistics.log_retention_days:
            retention = request_log.keep_short(settings.statistics.log_retention_days)
            await stack.enter_async_context(running(retention, name="log-retention"))

        storage = _open_storage(settings)
        stack.push_async_callback(storage.close)
        library = LibraryService(
            engine, storage, decoder=decoder, image_settings=settings.image, library_settings=settings.library
        )
        await stack.enter_async_context(running(sweep_regularly(engine, storage), name="library-sweep"))

        passwords = PasswordHasher()
        stack.callback(passwords.close)
        accounts = AccountService(
            engine,
            passwords=passwords,
            tokens=_create_token_issuer(settings),
            throttle=LoginThrottle(engine),
            library=library,
        )
        signal = await stack.enter_async_context(open_signal(redis))
        task_events = await stack.enter_async_context(open_events(engine, accounts=accounts, signal=signal))

        upload_memory = MemoryBudget(UPLOAD_MEMORY_BYTES)
        models = ModelCatalogue(model_client, settings.model)
        stack.push_async_callback(models.close)
        inference = InferenceService(
            results=InferenceResults(engine),
            library=library,
            models=models,
            classifier=classifier,
            cache=cache,
            further_models=FurtherModels(engine, PhotoPreparer(decoder, settings.image)),
            recorder=recorder,
            memory=upload_memory,
        )
        stack.push_async_callback(inference.close)
        tasks = await stack.enter_async_context(
            open_tasks(
                settings,
                engine,
                heartbeat,
                inference=inference,
                on_change=task_events.announce,
                signal=signal,
                is_worker=is_worker,
            )
        )

        errors = ErrorCounts(engine)
        stack.push_async_callback(errors.close)
        await stack.enter_async_context(running(errors.run(), name="error-counts"))
        stats, health = StatsService(engine, settings.statistics, replica), HealthService(engine, model_client, replica)
        dashboard = DashboardFeed(stats, health)
        stack.push_async_callback(dashboard.close)

        # Requests leave hardly any cycles; looking for them was 6 % of a hit (python -m bench.profile).
        gc.set_threshold(GC_ALLOCATIONS)
        yield Resources(
            settings=settings,
            upload_memory=upload_memory,
            cache=cache,
            request_log=request_log,
            classifier=classifier,
            stats=stats,
            health=health,
            dashboard=dashboard,
            accounts=accounts,
            models=models,
            inference=inference,
            library=library,
            task_events=task_events,
            tasks=tasks,
        )


async def _open_database(settings: Settings, stack: AsyncExitStack) -> AsyncEngine:
    engine = create_engine(settings)
    stack.push_async_callback(engine.dispose)
    if settings.database.migrate_on_start:
        await migrate(engine, settings)
    else:
        await wait_for_database(engine, settings)
    await build_rollups(engine, settings.statistics.timezone)
    return engine


def _open_replica(settings: Settings, main: AsyncEngine, stack: AsyncExitStack) -> Replica | None:
    engine = create_replica_engine(settings)
    if engine is None:
        return None
    stack.push_async_callback(engine.dispose)
    return Replica(main, engine)


def _open_storage(settings: Settings) -> Storage:
    try:
        return open_storage(settings.upload_dir, settings.library.bucket)
    except StorageError as error:
        raise AppError(str(error)) from error


def _create_token_issuer(settings: Settings) -> TokenIssuer:
    try:
        key = settings.account.secret_key.get_secret_value() or kept_secret_key(settings.data_dir)
    except (OSError, ValueError) as error:
        raise AppError(
            f"The key that signs tokens cannot be kept: {error}. Check DATA_DIR, or set SECRET_KEY."
        ) from error
    return TokenIssuer(key, timedelta(minutes=settings.account.token_minutes))
