"""A service whose provider has batches, and an account with pictures."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.tables.spending import ModelCallRow
from app.resources import Resources, open_resources
from app.services.inference.results import Inference
from app.services.photos import UploadedPhoto
from app.services.tasks.record import FINISHED, Priority, Task
from tests.fakes.images import jpeg_photo
from tests.fakes.model_server import FakeModelServer
from tests.servers.waiting import POLL_SECONDS
from tests.support.spending import spending_settings

CALL_MICROS = 10_000
HALF = CALL_MICROS // 2


def batch_settings(settings: Settings, server: FakeModelServer, provider: str, **changes: object) -> Settings:
    """Settings of a service that asks `provider`, and waits for no further photos."""
    address = {"openai": server.openai_url, "claude": server.anthropic_url, "custom": server.openai_url}[provider]
    model = {"openai": "gpt-6-luna", "claude": "claude-haiku-5-5", "custom": "test-vision"}[provider]
    task = settings.task.model_copy(update={"batch_wait_seconds": 0, **changes})
    return settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"provider": provider, "base_url": address, "model": model}),
            "spending": spending_settings(),
            "task": task,
        }
    )


@dataclass
class Album:
    """An account, and its pictures by their ids."""

    resources: Resources
    account_id: int
    images: list[int]

    async def ask(self, image_id: int, priority: Priority = Priority.LOW) -> str:
        return (await self.resources.tasks.submit(self.account_id, image_id, "default", priority=priority)).id

    async def ask_all(self) -> list[str]:
        """Ask about all pictures in one transaction, so that they are in one batch."""
        job = await self.resources.jobs.create(self.account_id, self.images, "default", Priority.LOW)
        page = await self.resources.jobs.page(self.account_id, job.id, skip=0, limit=100, status=None)
        return [task.id for task in page.items]

    async def task(self, task_id: str) -> Task:
        return await self.resources.tasks.get(self.account_id, task_id)

    async def completed(self, *tasks: str) -> list[Task]:
        """Wait until all have ended, and return them."""

        async def have_ended() -> bool:
            return all([(await self.task(each)).status in FINISHED for each in tasks])

        await until(have_ended, "the tasks to end")
        return [await self.task(each) for each in tasks]

    async def results(self, *tasks: str) -> list[Inference]:
        """Wait until all are completed, and return what they have stored."""
        ids = [task.result_id for task in await self.completed(*tasks)]
        return [await self.resources.inference.results.get(self.account_id, each or 0) for each in ids]


@asynccontextmanager
async def album(settings: Settings, photos: int, *, copies: int = 0) -> AsyncIterator[Album]:
    """Run the service with an account that has so many different pictures, and copies of the first."""
    async with open_resources(settings) as resources:
        account = await resources.accounts.register("testuser", "test@example.com", "testpassword123")
        images = []
        for number in [*range(photos), *[0] * copies]:
            data = jpeg_photo(64 + number, 64)
            added = await resources.library.add(account.id, UploadedPhoto(data, hashlib.sha256(data).hexdigest()))
            images.append(added.id)
        yield Album(resources, account.id, images)


async def ledger(engine: AsyncEngine) -> list[tuple[str, int]]:
    """Outcome and cost of all calls in the ledger."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            select(ModelCallRow.outcome, ModelCallRow.cost_micros).order_by(ModelCallRow.id)
        )
        return [(row.outcome, row.cost_micros) for row in rows]


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 120
    while True:
        holds = condition()
        if await holds if isinstance(holds, Awaitable) else holds:
            return
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(POLL_SECONDS)
