"""Instances of the service, each a process with workers, on one database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.config.settings import PROJECT_ROOT, Settings
from app.database.engine import create_engine
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process
from tests.support.running import COMMANDS

READY_WITHIN_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Site:
    """Processes of the service on one database, which `engine` reads."""

    engine: AsyncEngine
    environment: dict[str, str]
    stack: ExitStack

    async def start(self, command: str, *, workers: int = 1) -> tuple[str, RunningProcess]:
        """Start an instance; return its URL and its process."""
        port = free_port()
        context = start_process(
            [part.format(port=port) for part in COMMANDS[command]],
            ready=lambda: answers_http(port, "/api/v1/health/live"),
            env={**self.environment, "APP_PORT": str(port), "WEB_CONCURRENCY": str(workers)},
            cwd=PROJECT_ROOT,
            ready_within_seconds=READY_WITHIN_SECONDS,
        )
        return f"http://127.0.0.1:{port}", await asyncio.to_thread(self.stack.enter_context, context)


@asynccontextmanager
async def opened(database: DatabaseSettings, environment: dict[str, str]) -> AsyncIterator[Site]:
    assert database.url is not None
    engine = create_engine(Settings(database=database))
    try:
        with ExitStack() as stack:
            yield Site(engine, {**environment, "DATABASE_URL": database.url.get_secret_value()}, stack)
    finally:
        await engine.dispose()
