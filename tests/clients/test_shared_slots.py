"""gunicorn's workers share the slots of the model as they need them, and refuse at once whom they cannot serve."""

import asyncio

import httpx2
import pytest

from tests.fakes.images import jpeg_photo
from tests.fakes.model_server import FakeModelServer
from tests.servers.processes import free_port
from tests.servers.waiting import wait_until
from tests.support.running import running

PATIENCE_SECONDS = 110
SLOTS_EACH, WORKERS = 2, 2


@pytest.fixture
def slots(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "WEB_CONCURRENCY": str(WORKERS), "LLM_MAX_CONCURRENCY": str(SLOTS_EACH)}


async def upload(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
    return await client.post("/api/v1/classify", files={"image": jpeg_photo(64 + number, 64)})


async def test_one_worker_may_use_the_slots_of_all(slots: dict[str, str], model_server: FakeModelServer) -> None:
    port = free_port()
    # Nothing is answered before as many ask as all workers together may.
    model_server.delay_seconds = PATIENCE_SECONDS
    with running("gunicorn", port, {**slots, "APP_PORT": str(port)}) as process:
        await asyncio.to_thread(
            wait_until, lambda: process.output().count("Application startup complete") == WORKERS, "workers"
        )
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client:
            # One request is one worker's.
            photos = [("image", jpeg_photo(64 + number, 64)) for number in range(SLOTS_EACH * WORKERS)]
            batch = asyncio.create_task(client.post("/api/v1/classify/batch", files=photos))
            await asyncio.to_thread(
                wait_until, lambda: model_server.concurrent == SLOTS_EACH * WORKERS, "as many calls at once"
            )
            batch.cancel()
            await asyncio.gather(batch, return_exceptions=True)


async def test_what_cannot_be_served_in_time_is_refused_at_once(
    slots: dict[str, str], model_server: FakeModelServer
) -> None:
    port = free_port()
    model_server.delay_seconds = 3.0
    with running("gunicorn", port, {**slots, "APP_PORT": str(port), "LLM_TIMEOUT": "8"}) as process:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client:
            # How long a call takes is known from then on.
            assert (await upload(client, 500)).status_code == 200
            ended: list[httpx2.Response] = []

            async def note(number: int) -> None:
                ended.append(await upload(client, number))

            await asyncio.gather(*(note(number) for number in range(24)))
        assert process.wait(0) is None
    codes = [response.status_code for response in ended]
    assert set(codes) == {200, 503}
    # Before any of them was answered: the first answer takes three seconds.
    assert codes[0] == 503
    refused = [response for response in ended if response.status_code == 503]
    assert {response.json()["error"]["code"] for response in refused} == {"model_busy"}
    assert all(1 <= int(response.headers["Retry-After"]) <= PATIENCE_SECONDS for response in refused)
    assert codes.count(200) >= SLOTS_EACH * WORKERS
