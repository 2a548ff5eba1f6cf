"""A process that is killed when all is committed and nothing is answered: the repeat gets the lost answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.config.settings import PROJECT_ROOT
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.database.tables.request_log import RequestLog
from tests.fakes.model_server import FakeModelServer
from tests.servers.processes import answers_http, free_port, start_process
from tests.support.classify import check, hit_count, photo, sha256, upload
from tests.support.idempotency import count_rows, is_replay, with_key
from tests.support.library_api import person
from tests.support.library_api import upload as keep_picture
from tests.support.people import TOKEN_KEY
from tests.support.running import BIN, IMPORTS

DIE = {"X-Die": "yes"}


@asynccontextmanager
async def process(environment: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    """A process of the service that can be killed by a request."""
    port = free_port()
    command = [str(BIN / "uvicorn"), "tests.support.dying_application:app", "--host", "127.0.0.1", "--port", str(port)]
    context = start_process(
        command,
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env=environment,
        cwd=PROJECT_ROOT,
        imports=IMPORTS,
    )
    await asyncio.to_thread(context.__enter__)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            yield client
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def test_the_repeat_of_a_lost_answer_gets_it_and_counts_nothing(
    engine: AsyncEngine,
    migrated_database: DatabaseSettings,
    environment: dict[str, str],
    model_server: FakeModelServer,
) -> None:
    assert migrated_database.url is not None
    environment |= {"DATABASE_URL": migrated_database.url.get_secret_value(), "TASK_WORKERS": "outside"}
    environment |= {"SECRET_KEY": TOKEN_KEY}
    known, new = photo(1), photo(2)
    keys = [with_key() for _ in range(4)]

    async with process(environment) as service:
        token = await person(service)
        image = (await keep_picture(service, token)).json()["id"]
        async with httpx2.AsyncClient(base_url=service.base_url.join("/api/v1"), timeout=120) as api:
            await upload(api, known)

    async def send(number: int, service: httpx2.AsyncClient, headers: dict[str, str]) -> httpx2.Response:
        headers = keys[number] | headers
        api = httpx2.AsyncClient(base_url=service.base_url.join("/api/v1"), timeout=120)
        async with api:
            match number:
                case 0:
                    return await check(api, sha256(known), headers=headers)
                case 1:
                    return await upload(api, new, headers=headers)
                case 2:
                    return await keep_picture(service, token | headers, photo(3))
                case _:
                    body = {"image_id": image, "model_name": "default"}
                    return await service.post("/images/inference/async", json=body, headers=token | headers)

    async def figures() -> list[Any]:
        tables = (RequestLog, LibraryImage, InferenceTask)
        counts: list[Any] = [await count_rows(engine, table) for table in tables]
        return [*counts, await hit_count(engine, sha256(known)), await hit_count(engine, sha256(new))]

    for number in range(4):
        async with process(environment) as service:
            with pytest.raises(httpx2.TransportError):
                await send(number, service, DIE)
    after_deaths = await figures()
    assert after_deaths == [3, 2, 1, 2, 1]
    async with process(environment) as service:
        for number in range(4):
            answers = [await send(number, service, {}) for _ in range(2)]
            assert all(map(is_replay, answers)), answers[0].text
            assert answers[0].content == answers[1].content
    assert await figures() == after_deaths
    assert model_server.call_count == 2
