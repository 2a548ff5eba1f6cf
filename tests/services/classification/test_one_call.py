"""One model call per new photo, whatever number of workers, instances and machines share a database."""

import asyncio
import hashlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.tables.classification import CachedImage, ModelCallLease
from app.database.tables.request_log import RequestLog
from app.main import create_app
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import classification, failure
from tests.fakes.model_server import FakeModelServer
from tests.support.instances import Site
from tests.support.serving import serving

# Processes cost seconds; the SQL of leases is tested with the store, on every kind.
ON_MYSQL = pytest.mark.parametrize("database_kind", ["mysql"], indirect=True)

PATIENCE_SECONDS = 180
# Longer than any test: such a call ends only with its caller.
NEVER = 1000.0
# Twice as long as a process may be silent.
CALL_SECONDS = 6.0


async def rows(engine: AsyncEngine, table: type[ModelCallLease] | type[CachedImage] | type[RequestLog]) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(table.__table__))).all())


async def upload(url: str, data: bytes) -> httpx2.Response:
    # A connection of its own, so that every worker gets some. No certificates are read for it, which takes its time.
    async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        return await client.post(f"{url}/api/v1/classify", files={"image": data})


@pytest.fixture
async def two(settings: Settings, engine: AsyncEngine) -> AsyncIterator[tuple[str, str]]:
    """The addresses of two services on one database. Both live in this process and share nothing of it."""
    async with serving(create_app(settings)) as first, serving(create_app(settings)) as second:
        yield first, second


async def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@ON_MYSQL
async def test_forty_uploads_at_once_cost_one_call(site: Site, model_server: FakeModelServer) -> None:
    started = await asyncio.gather(*(site.start("gunicorn", workers=2) for _ in range(2)))
    instances = [url for url, _ in started]
    data = jpeg_photo(64, 64)
    model_server.delay_seconds = 1.0
    responses = await asyncio.gather(*(upload(instances[number % 2], data) for number in range(40)))
    assert [response.status_code for response in responses] == [200] * 40
    answers = [response.json() for response in responses]
    assert model_server.call_count == 1
    assert sorted(answer["from_cache"] for answer in answers) == [False] + [True] * 39
    assert len({str(answer["data"]) for answer in answers}) == 1
    logged = await rows(site.engine, RequestLog)
    assert {row.request_id for row in logged} == {answer["request_id"] for answer in answers}
    assert sorted(row.from_cache for row in logged) == [0] + [1] * 39
    [entry] = await rows(site.engine, CachedImage)
    assert (entry.image_hash, entry.hit_count) == (hashlib.sha256(data).hexdigest(), 40)
    assert await rows(site.engine, ModelCallLease) == []
    # Many photos at once, each at every instance.
    photos = [jpeg_photo(32 + number, 32) for number in range(12)]
    model_server.delay_seconds = 0.1
    responses = await asyncio.gather(*(upload(instance, photo) for photo in photos for instance in instances * 2))
    assert [response.status_code for response in responses] == [200] * 48
    assert model_server.call_count == 13
    assert await rows(site.engine, ModelCallLease) == []


@pytest.mark.parametrize("database_kind", ["sqlite", "mysql"], indirect=True)
async def test_a_killed_process_hands_the_call_on(site: Site, model_server: FakeModelServer) -> None:
    """docs/decisions/one-model-call.md has the time that is printed here (-s)."""
    (killed, process), *more = await asyncio.gather(*(site.start("python") for _ in range(3)))
    others = [url for url, _ in more]
    data = jpeg_photo(64, 64)
    model_server.script(classification().delayed(NEVER), classification().delayed(CALL_SECONDS))
    lost = asyncio.create_task(upload(killed, data))
    await until(lambda: model_server.call_count == 1)
    waiting = [asyncio.create_task(upload(other, data)) for other in others * 2]
    await asyncio.sleep(1.0)
    assert model_server.call_count == 1
    process.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    await until(lambda: model_server.call_count == 2)
    called_at = time.monotonic()
    responses = await asyncio.gather(*waiting)
    print(  # noqa: T201 - the figure of the decision record
        f"a second call {called_at - killed_at:.2f} s after the kill,"
        f" all answers {time.monotonic() - called_at:.2f} s later; the call takes {CALL_SECONDS} s"
    )
    assert [response.status_code for response in responses] == [200] * 4
    assert sorted(response.json()["from_cache"] for response in responses) == [False, True, True, True]
    assert model_server.call_count == 2
    assert await rows(site.engine, ModelCallLease) == []
    with pytest.raises(httpx2.HTTPError):
        await lost


@ON_MYSQL
async def test_five_uploads_at_once_cost_one_call_though_it_takes_longer_than_a_process_may_be_silent(
    site: Site, model_server: FakeModelServer
) -> None:
    started = await asyncio.gather(*(site.start("gunicorn", workers=4) for _ in range(2)))
    data = jpeg_photo(64, 64)
    model_server.delay_seconds = CALL_SECONDS
    responses = await asyncio.gather(*(upload(started[number % 2][0], data) for number in range(5)))
    assert [response.status_code for response in responses] == [200] * 5
    assert sorted(response.json()["from_cache"] for response in responses) == [False] + [True] * 4
    assert model_server.call_count == 1
    assert await rows(site.engine, ModelCallLease) == []


async def test_a_failed_call_hands_the_turn_on(
    two: tuple[str, str], engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    data = jpeg_photo(64, 64)
    model_server.script(failure(401).delayed(0.5))
    failing = asyncio.create_task(upload(two[0], data))
    await until(lambda: model_server.call_count == 1)
    waiting = asyncio.create_task(upload(two[1], data))
    assert (await failing).status_code == 503
    answer = (await waiting).json()
    assert (answer["success"], answer["from_cache"]) == (True, False)
    assert model_server.call_count == 2
    assert await rows(engine, ModelCallLease) == []


async def test_a_service_that_is_told_to_stop_finishes_its_call(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    data = jpeg_photo(64, 64)
    model_server.script(classification().delayed(1.0))
    async with serving(create_app(settings)) as staying:
        async with serving(create_app(settings)) as leaving:
            asked = asyncio.create_task(upload(leaving, data))
            await until(lambda: model_server.call_count == 1)
            waiting = asyncio.create_task(upload(staying, data))
        assert await rows(engine, ModelCallLease) == []
        answers = [(await task).json() for task in (asked, waiting)]
    assert [answer["from_cache"] for answer in answers] == [False, True]
    assert model_server.call_count == 1
    assert await rows(engine, ModelCallLease) == []


async def test_what_is_no_photo_costs_no_lease(
    two: tuple[str, str], engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    """While leases cannot be written, what is refused all the same does not need one."""
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE model_call_lease RENAME TO hidden")
    try:
        refused = await upload(two[1], b"no photo")
        new = await upload(two[1], jpeg_photo(32, 32))
    finally:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE hidden RENAME TO model_call_lease")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_image_format")
    assert new.status_code == 503
    assert model_server.call_count == 0
