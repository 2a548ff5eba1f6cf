"""Whichever worker answers `/health`, it tells of the breakers of all; one trial call closes an open one."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import classification, failure
from tests.fakes.model_server import FakeModelServer, running_model_server
from tests.servers.processes import free_port
from tests.servers.waiting import wait_until
from tests.support.running import running
from tests.support.second_model import ADDRESS_VARIABLE, KEY_VARIABLE, MODEL

WORKERS, FAILURES = 2, 5
OPEN_SECONDS = 20
ENOUGH_CONNECTIONS = 12
WITHIN_SECONDS = 100.0


@asynccontextmanager
async def served(environment: dict[str, str], **settings: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with one connection: all that it asks goes to the same worker."""
    port = free_port()
    variables = {**environment, "APP_PORT": str(port), "WEB_CONCURRENCY": str(WORKERS), "LLM_MAX_RETRIES": "0"}
    with running("gunicorn", port, {**variables, **settings}) as process:
        await asyncio.to_thread(
            wait_until, lambda: process.output().count("Application startup complete") == WORKERS, "workers"
        )
        limits = httpx2.Limits(max_connections=1)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits) as client:
            yield client


async def upload(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
    return await client.post("/api/v1/classify", files={"image": jpeg_photo(64 + number, 64)})


async def health_everywhere(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """Ask on connections of their own; the kernel gives them to all workers."""
    bodies = []
    for _ in range(ENOUGH_CONNECTIONS):
        async with httpx2.AsyncClient(base_url=client.base_url, timeout=120) as other:
            answer = await other.get("/health")
            # Ready for hits, whatever the model does.
            assert answer.status_code == 200
            bodies.append(answer.json())
    return bodies


async def test_an_open_breaker_shows_in_every_worker_and_a_trial_closes_it(
    environment: dict[str, str], model_server: FakeModelServer
) -> None:
    async with served(environment) as client:
        model_server.default = failure(429, retry_after="0")
        limited = [(await upload(client, number)).json()["error"]["code"] for number in range(FAILURES + 1)]
        assert set(limited) == {"model_rate_limited"}
        assert {body["model"]["breaker"] for body in await health_everywhere(client)} == {"closed"}

        model_server.default = failure(503, retry_after=str(OPEN_SECONDS))
        calls = model_server.call_count
        began = time.monotonic()
        for number in range(FAILURES):
            assert (await upload(client, 100 + number)).status_code == 503
        refused = await upload(client, 200)
        assert refused.json()["error"]["code"] == "model_circuit_open"
        assert 1 <= int(refused.headers["Retry-After"]) <= OPEN_SECONDS
        assert model_server.call_count == calls + FAILURES
        bodies = await health_everywhere(client)
        assert time.monotonic() - began < OPEN_SECONDS, "the machine was too slow to see it open"
        assert {(body["status"], body["model"]["breaker"], body["model"]["open_breakers"]) for body in bodies} == {
            ("degraded", "open", 1)
        }

        model_server.default = classification()
        deadline = time.monotonic() + WITHIN_SECONDS
        while (answer := await upload(client, 300)).status_code != 200:
            assert answer.json()["error"]["code"] == "model_circuit_open"
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)
        assert time.monotonic() - began > OPEN_SECONDS - 1
        assert model_server.call_count == calls + FAILURES + 1
        bodies = await health_everywhere(client)
        assert {(body["status"], body["model"]["breaker"], body["model"]["open_breakers"]) for body in bodies} == {
            ("healthy", "closed", 0)
        }


async def test_health_names_the_model_that_answers_in_place_of_another(
    environment: dict[str, str], model_server: FakeModelServer
) -> None:
    with running_model_server() as second:
        settings = {
            "MODELS": "second=tests.support.second_model:SecondClient",
            "FALLBACK_MODELS": "second",
            ADDRESS_VARIABLE: second.openai_url,
            KEY_VARIABLE: str(second.api_key),
        }
        async with served(environment, **settings) as client:
            assert {body["fallback"] for body in await health_everywhere(client)} == {None}
            model_server.default = failure(401)
            answers = [await upload(client, number) for number in range(FAILURES + 1)]
            assert [answer.status_code for answer in answers] == [200] * (FAILURES + 1)
            assert answers[-1].json()["model"] == MODEL
            for body in await health_everywhere(client):
                assert (body["success"], body["status"], body["model_api"]) == (True, "degraded", "unavailable")
                assert (body["fallback"]["provider"], body["fallback"]["model"]) == ("second", MODEL)
                assert body["fallback"]["breaker"] == "closed"
