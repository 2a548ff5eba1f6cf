"""The application: settings in, an ASGI application out. `uvicorn app.main:app` serves it."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from app import VERSION
from app.api.access import API_PREFIX, AccessMiddleware, AccessPolicy
from app.api.credentials import CredentialsMiddleware
from app.api.dependencies import TAKES_KEY
from app.api.errors import KEY_ERRORS, add_error_handlers, describe_errors
from app.api.fast_path import FastPath
from app.api.idempotency import REPLAYED_HEADER
from app.api.middleware import (
    REQUEST_ID_HEADER,
    BodyLimitMiddleware,
    RequestContextMiddleware,
    StartupErrorMiddleware,
    UnexpectedErrorMiddleware,
)
from app.api.query import refuse_unknown_parameters
from app.api.routes import (
    cache,
    categories,
    classify,
    events,
    feedback,
    health,
    images,
    inference,
    jobs,
    metrics,
    models,
    privacy,
    requests,
    review,
    stats,
    tasks,
    tokens,
    users,
    websocket,
)
from app.api.routes.metrics import METRICS_PATH
from app.clients.errors import ModelConfigurationError
from app.config.settings import Settings, load_settings
from app.config.unknown import warn_of_unknown_variables
from app.errors import AppError
from app.observability.access_log import AccessLog
from app.observability.logging import configure_logging, log_format
from app.observability.tracing import start_tracing
from app.resources import open_resources
from app.server.limits import MIN_BYTES_PER_SECOND
from app.server.shutdown import on_shutdown
from app.server.waiting_line import QUICK_PATHS
from app.web import dashboard, demo, documentation, index
from app.web import review as review_page
from app.web.pages import login_page, mount_assets

# 500 hashes and a user id take about 35 kB of JSON.
JSON_BODY_MAX_BYTES = 128 * 1024
LIVE_PATHS = (f"{API_PREFIX}/health/live", "/health/live")
CHECK_CACHE_PATH = f"{API_PREFIX}/classify/check-cache"
FEEDBACK_PATH = f"{API_PREFIX}/feedback"
UPLOAD_PATHS = (f"{API_PREFIX}/classify", f"{API_PREFIX}/classify/batch", "/images/upload")

DESCRIPTION = """
Sorts phone photos into eight categories and never pays twice for the same picture.

手机照片八分类，同一张图片只付一次费。

1. Compress the photo (JPEG, 1024 px, quality 80) and hash its bytes with SHA-256.
2. Ask `POST /api/v1/classify/check-cache` with the hash. A hit is the answer: nothing is uploaded.
3. On a miss, upload the same bytes to `POST /api/v1/classify`.

Every error has the form `{"success": false, "error": {"code", "message", "details"}, "request_id", "timestamp"}`.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application.

    Args:
        settings: taken from the environment and `.env` when left out.
    """
    is_from_environment = settings is None
    settings = settings or load_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with open_resources(settings) as resources:
            app.state.resources = resources
            with on_shutdown(resources.task_events.end_streams), on_shutdown(resources.dashboard.end_streams):
                yield {
                    MIN_BYTES_PER_SECOND: settings.image.min_upload_bytes_per_second,
                    QUICK_PATHS: frozenset({CHECK_CACHE_PATH}),
                }

    configure_logging(settings)
    if is_from_environment:
        warn_of_unknown_variables()
    app = FastAPIOffline(
        title=index.NAME,
        version=VERSION,
        summary="图片分类服务",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=_telemetry(settings),
        routes=[*_routes()],
    )
    add_error_handlers(app)
    mount_assets(app)
    app.state.policy = policy = AccessPolicy(settings)
    documentation.tell_who_needs_a_key(app, policy)

    # The last added is the outermost.
    app.add_middleware(BodyLimitMiddleware, max_bytes=JSON_BODY_MAX_BYTES, upload_paths=UPLOAD_PATHS)
    app.add_middleware(AccessMiddleware, policy=policy, login_page=login_page)
    app.add_middleware(UnexpectedErrorMiddleware)
    credentials: dict[str, Any] = {
        "signed_paths": f"{API_PREFIX}/",
        "device_paths": (f"{API_PREFIX}/classify", FEEDBACK_PATH),
        "account_paths": FEEDBACK_PATH,
        "upload_paths": UPLOAD_PATHS,
        "max_bytes": JSON_BODY_MAX_BYTES,
    }
    app.add_middleware(CredentialsMiddleware, inside_cors=True, **credentials)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_allowed_origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=[REQUEST_ID_HEADER, "Retry-After", REPLAYED_HEADER],
    )
    app.add_middleware(
        FastPath,
        policy=policy,
        check_path=CHECK_CACHE_PATH,
        upload_path=UPLOAD_PATHS[0],
        max_bytes=JSON_BODY_MAX_BYTES,
    )
    app.add_middleware(CredentialsMiddleware, inside_cors=False, **credentials)
    # Once more, for the fast path; the one above is inside CORS, so that a web page may read the error.
    app.add_middleware(UnexpectedErrorMiddleware)
    app.add_middleware(RequestContextMiddleware, access_log=AccessLog(log_format(settings)))
    app.add_middleware(StartupErrorMiddleware, expected=(AppError, ModelConfigurationError))
    return app


@functools.cache
def _routes() -> tuple[BaseRoute, ...]:
    """All routes but those of files and of openapi.json: they know no settings, so a process builds them once."""
    known_query = [Depends(refuse_unknown_parameters)]
    api = APIRouter(prefix=API_PREFIX, dependencies=known_query)
    for module in (classify, categories, feedback, stats, requests, cache, review, tokens, privacy):
        api.include_router(module.router, dependencies=[TAKES_KEY], responses=describe_errors(*KEY_ERRORS))
    api.include_router(health.router)
    api.include_router(jobs.router)
    root = APIRouter()
    root.include_router(api)
    # Where load balancers look for it; the specification's nginx has this path, too.
    root.include_router(health.router, include_in_schema=False)
    # The signed-in side has the paths of its own specification.
    root.include_router(users.router, dependencies=known_query)
    root.include_router(models.router, dependencies=known_query)
    # From the particular to the general: /images/inference/{result_id} would take "events" and "tasks" for an id, and
    # /images/{image_id} "inference".
    for signed_in in (events, tasks, inference, images):
        root.include_router(signed_in.router, dependencies=known_query)
    for module in (websocket, metrics, dashboard, review_page, demo, index, documentation):
        root.include_router(module.router)
    return tuple(root.routes)


def _telemetry(settings: Settings) -> TelemetryConfig:
    """FastAPI's own spans for requests; without an endpoint each would look into the environment for an exporter."""
    provider = start_tracing(settings.log.traces_endpoint)
    return {
        "tracing": provider is not None,
        "tracer_provider": provider,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        # What asks every few seconds would bury the rest.
        "exclude": lambda scope: scope["path"] in {METRICS_PATH, *LIVE_PATHS},
    }


def __getattr__(name: str) -> FastAPI:
    """Build `app` when a server asks for it, and not for an import of `create_app` alone."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Servers may ask more than once.
    globals()[name] = app = create_app()
    return app
