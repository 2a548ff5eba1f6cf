"""Results of one account, in several processes: one call for it, however many ask."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.tables.classification import CachedImage, ModelCallLease
from app.database.tables.spending import ModelCallRow
from app.resources import Resources, open_resources
from app.services.photos import UploadedPhoto
from app.services.request_log.record import Caller
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import classification
from tests.fakes.model_server import FakeModelServer

JPEG = jpeg_photo()
UPLOAD = UploadedPhoto(JPEG, hashlib.sha256(JPEG).hexdigest())


@pytest.fixture
async def processes(settings: Settings, engine: AsyncEngine) -> AsyncIterator[list[Resources]]:
    """What three processes open on one database."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_resources(settings)) for _ in range(3)]


async def count(engine: AsyncEngine, column: object) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(select(func.count(column))) or 0)  # type: ignore[arg-type]


async def test_one_call_for_an_account_in_all_processes(
    processes: list[Resources], model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    account = await processes[0].accounts.register("testuser", "test@example.com", "testpassword123")
    image = await processes[0].library.add(account.id, UPLOAD)
    answers = await asyncio.gather(
        *(each.inference.infer(account.id, image.id, "custom") for each in processes for _ in range(3))
    )
    assert sum(not answer.from_cache for answer in answers) == 1
    assert model_server.call_count == 1
    assert await count(engine, ModelCallRow.id) == 1
    assert await count(engine, ModelCallLease.image_hash) == 0
    assert await count(engine, CachedImage.id) == 0


async def test_accounts_and_a_stranger_at_once(
    processes: list[Resources], model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    """The stranger's call may come first: then it answers those who come later."""
    names = ["first", "second"]
    accounts = [await processes[0].accounts.register(name, f"{name}@example.com", "testpassword123") for name in names]
    images = [await processes[0].library.add(account.id, UPLOAD) for account in accounts]
    asked = asyncio.create_task(processes[2].classifier.classify(UPLOAD, Caller()))
    answers = await asyncio.gather(
        *(
            process.inference.infer(account.id, image.id, "custom")
            for process, account, image in zip(processes[:2], accounts, images, strict=True)
        ),
    )
    stranger = await asked
    paid = sum(not answer.from_cache for answer in answers)
    assert not stranger.from_cache
    assert model_server.call_count == 1 + paid == await count(engine, ModelCallRow.id)
    assert await count(engine, CachedImage.id) == 1
    assert await count(engine, ModelCallLease.image_hash) == 0


async def test_a_picture_that_is_deleted_meanwhile_is_paid_for_and_leaves_nothing(
    processes: list[Resources], model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    process = processes[0]
    account = await process.accounts.register("testuser", "test@example.com", "testpassword123")
    image = await process.library.add(account.id, UPLOAD)
    model_server.script(replace(classification(), delay_seconds=0.5))
    asked = asyncio.create_task(process.inference.infer(account.id, image.id, "custom"))
    async with asyncio.timeout(60):
        while not model_server.call_count:  # noqa: ASYNC110 - it counts in a thread
            await asyncio.sleep(0.01)
    await process.library.delete(account.id, image.id)
    outcome = (await asyncio.gather(asked, return_exceptions=True))[0]
    assert type(outcome).__name__ in {"ImageNotFound", "Inference"}
    assert await count(engine, ModelCallRow.id) == 1
    assert await count(engine, ModelCallLease.image_hash) == 0
    assert await process.cache.get(UPLOAD.sha256) is None
