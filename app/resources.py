"""What the service opens at its start and closes, in reverse order, at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.clients.registry import create_model_client
from app.config.model import LOCAL_PROVIDER
from app.config.settings import Settings
from app.database.engine import connections_limit
from app.database.lifespan import open_database, open_heartbeat, open_replica
from app.observability import metrics, tracing
from app.observability.process_gauges import ProcessGauges
from app.runtime.background import running
from app.runtime.cgroups import available_cores
from app.runtime.fair_queue import fair_queue
from app.runtime.memory_budget import CLIENT_SHARE, UPLOAD_MEMORY_BYTES, MemoryBudget
from app.services.accounts.lifespan import open_accounts, secret_keys
from app.services.accounts.service import AccountService
from app.services.api_keys.lifespan import open_api_keys
from app.services.api_keys.service import ApiKeyService
from app.services.audit.lifespan import open_audit
from app.services.audit.service import AuditLog
from app.services.batches.lifespan import open_batches
from app.services.cache.lifespan import open_cache
from app.services.cache.service import CacheService
from app.services.classification.fallbacks import open_fallbacks
from app.services.classification.lifespan import open_classifier
from app.services.classification.local_first import open_local_first
from app.services.classification.service import ClassifierService
from app.services.device_tokens import DeviceTokenService
from app.services.events.feed import TaskEvents
from app.services.events.lifespan import open_events, open_signal
from app.services.feedback.lifespan import FeedbackServices, open_feedback
from app.services.health import HealthService
from app.services.idempotency.lifespan import open_idempotency
from app.services.idempotency.service import IdempotencyService
from app.services.inference.catalogue import ModelCatalogue
from app.services.inference.lifespan import open_inference
from app.services.inference.service import InferenceService
from app.services.library.lifespan import open_library
from app.services.library.service import LibraryService
from app.services.privacy.lifespan import open_privacy
from app.services.privacy.service import PrivacyService
from app.services.rate_limits import RateLimits
from app.services.redis import open_redis
from app.services.request_log.lifespan import open_request_log
from app.services.request_log.recorder import MAX_PENDING_ROWS
from app.services.request_log.service import RequestLogService
from app.services.signatures.lifespan import open_signatures
from app.services.signatures.service import SignatureService
from app.services.spending.lifespan import open_spending
from app.services.spool.lifespan import open_spool
from app.services.statistics.dashboard import DashboardFeed
from app.services.statistics.lifespan import open_statistics
from app.services.statistics.service import StatsService
from app.services.tasks.jobs import JobService
from app.services.tasks.lifespan import open_tasks
from app.services.tasks.service import TaskService

# A photo at the limits takes up to 500 MB while it is decoded (app/photo), in each of several workers.
MAX_DECODERS = 2
# Beside the largest photo, what its form takes, and the piece that has just arrived.
UPLOAD_FORM_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that requests use, built once per process."""

    settings: Settings
    upload_memory: MemoryBudget
    audit: AuditLog
    api_keys: ApiKeyService
    rate_limits: RateLimits
    cache: CacheService
    request_log: RequestLogService
    classifier: ClassifierService
    stats: StatsService
    health: HealthService
    dashboard: DashboardFeed
    accounts: AccountService
    signatures: SignatureService
    device_tokens: DeviceTokenService
    privacy: PrivacyService
    models: ModelCatalogue
    inference: InferenceService
    library: LibraryService
    task_events: TaskEvents
    tasks: TaskService
    jobs: JobService
    idempotency: IdempotencyService
    feedback: FeedbackServices


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
        enter = stack.enter_async_context
        # After all else has ended, and counted.
        stack.push_async_callback(asyncio.to_thread, tracing.send_spans)
        stack.callback(metrics.flush)

        engine = await enter(open_database(settings))
        replica = await enter(open_replica(settings, engine))
        heartbeat = await enter(open_heartbeat(engine))
        spool = await enter(open_spool(settings))
        redis = await enter(open_redis(settings))
        signal = await enter(open_signal(redis))
        audit = await enter(open_audit(engine, retention_days=settings.access.audit_retention_days))
        api_keys = await enter(open_api_keys(settings.cache, engine, audit=audit))
        model_client = create_model_client(settings.model)
        stack.push_async_callback(model_client.close)
        await model_client.start()
        decoder = stack.enter_context(fair_queue(min(available_cores(), MAX_DECODERS), name="decode"))
        largest = max(settings.image.max_size_bytes, settings.library.max_upload_bytes) + UPLOAD_FORM_BYTES
        upload_memory = MemoryBudget(
            UPLOAD_MEMORY_BYTES,
            share_bytes=max(int(CLIENT_SHARE * UPLOAD_MEMORY_BYTES), largest),
            reserve_bytes=largest,
        )
        local_first = await enter(open_local_first(settings.model, model_client))
        local_client = None if local_first is None else local_first.client
        fallbacks = await enter(open_fallbacks(settings.model, model_client, local_client))
        spending = await enter(
            open_spending(settings, engine, spool=spool, model_client=model_client, fallbacks=fallbacks)
        )

        log = await enter(
            open_request_log(settings.statistics, engine, spool=spool, currency=settings.spending.currency)
        )
        recorder = log.recorder
        gauges = ProcessGauges(
            engine,
            connections_limit=connections_limit(settings),
            queued_rows=lambda: recorder.pending_rows,
            queue_limit_rows=MAX_PENDING_ROWS,
            spooled_rows=lambda: spool.rows,
        )
        await enter(running(gauges.run(), name="gauges"))
        cache = await enter(
            open_cache(
                settings.cache,
                engine,
                redis=redis,
                rollups=log.rollups,
                model=model_client.model,
                language=settings.model.fixed_language,
            )
        )
        classifier = await enter(
            open_classifier(
                settings,
                engine,
                heartbeat,
                cache=cache,
                log=log,
                spool=spool,
                model_client=model_client,
                fallbacks=fallbacks,
                local_first=local_first,
                decoder=decoder,
                spending=spending,
            )
        )
        library = await enter(open_library(settings, engine, decoder=decoder))
        privacy = await enter(open_privacy(engine))
        accounts = await enter(open_accounts(settings, engine, library=library, privacy=privacy, audit=audit))
        signatures = await enter(open_signatures(engine, keys=api_keys))
        events = await enter(open_events(engine, accounts=accounts, signal=signal))
        models, inference = await enter(
            open_inference(
                settings,
                engine,
                service_client=model_client,
                started=fallbacks | ({} if local_client is None else {LOCAL_PROVIDER: local_client}),
                classifier=classifier,
                library=library,
                recorder=recorder,
                memory=upload_memory,
                spool=spool,
            )
        )
        # Now that each kind of entry has what writes it.
        await enter(running(spool.run(), name="spool"))
        patience_seconds = int(settings.task.batch_deadline_hours * 3600)
        tasks, jobs = await enter(
            open_tasks(
                settings,
                engine,
                heartbeat,
                inference=inference,
                on_change=events.announce,
                signal=signal,
                patience_seconds=lambda name: patience_seconds if models.is_batched(name) else 0,
                is_worker=is_worker,
            )
        )
        await enter(
            open_batches(
                settings,
                engine,
                heartbeat,
                client=model_client,
                local_first=local_first,
                lasting_models=classifier.lasting_models,
                cache=cache,
                rollups=log.rollups,
                library=library,
                inference=inference,
                decoder=decoder,
                spending=spending,
                wake=tasks.wake,
                is_worker=is_worker,
            )
        )
        idempotency = await enter(open_idempotency(engine))
        feedback = await enter(open_feedback(settings, engine, cache=cache, request_log=log.service, audit=audit))
        health = HealthService(
            engine, heartbeat, model_client, replica, list(fallbacks.values()), looks_first=local_client
        )
        stats, dashboard = await enter(
            open_statistics(
                settings,
                engine,
                replica=replica,
                health=health,
                sure_answers=None if local_first is None else local_first.sure_answers,
            )
        )

        yield Resources(
            settings=settings,
            upload_memory=upload_memory,
            audit=audit,
            api_keys=api_keys,
            rate_limits=RateLimits(redis, per_address=settings.access.requests_per_minute_per_address),
            cache=cache,
            request_log=log.service,
            classifier=classifier,
            stats=stats,
            health=health,
            dashboard=dashboard,
            accounts=accounts,
            signatures=signatures,
            device_tokens=DeviceTokenService(secret_keys(settings), api_keys),
            privacy=privacy,
            models=models,
            inference=inference,
            library=library,
            task_events=events,
            tasks=tasks,
            jobs=jobs,
            idempotency=idempotency,
            feedback=feedback,
        )
