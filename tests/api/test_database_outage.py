"""The service with two workers and a database that freezes: requests are let go, refused at once, and served again.

But for hits of what a worker has in memory, which are answered all the while.

Times are bounded with room for a slow machine. docs/operations.md has what a quiet one has measured.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pymysql
import pytest

from app.database.transactions import TOTAL_TIMEOUT_SECONDS
from app.services.health import DATABASE_CHECK_TIMEOUT_SECONDS
from tests.fakes.images import jpeg_photo
from tests.servers.processes import free_port
from tests.support.classify import error_code, sha256
from tests.support.own_server import OwnServer
from tests.support.people import bearer, log_in, sign_up
from tests.support.running import running
from tests.support.spools import spool_files

# A busy machine may be late by so much.
SLACK_SECONDS = 5.0
PATIENCE_SECONDS = 120
KNOWN = jpeg_photo(16, 16)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Port and process id of a MySQL server of this test."""
    server = OwnServer(tmp_path_factory.mktemp("server"))
    with server.running() as process:
        yield server.port, process.pid
        # It could not end otherwise.
        process.send_signal(signal.SIGCONT)


@pytest.fixture
async def service(server: tuple[int, int], environment: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    port = free_port()
    database = f"mysql://root@127.0.0.1:{server[0]}/image_classifier"
    variables = {**environment, "DATABASE_URL": database, "APP_PORT": str(port), "WEB_CONCURRENCY": "2"}
    gunicorn = running("gunicorn", port, variables)
    await asyncio.to_thread(gunicorn.__enter__)
    try:
        # A connection each, so that both workers are asked.
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits) as client:
            yield client
    finally:
        await asyncio.to_thread(gunicorn.__exit__, None, None, None)


class Requests:
    """Requests of every kind that needs the database, with how long each took."""

    def __init__(self, service: httpx2.AsyncClient, token: str) -> None:
        self.seconds: list[float] = []
        self._service = service
        self._token = bearer(token)
        self._photos = 0

    async def ask(self, times: int) -> list[httpx2.Response]:
        """Make each request so often, all at once."""
        return await asyncio.gather(*(self._timed(number) for number in range(6 * times)))

    async def _timed(self, number: int) -> httpx2.Response:
        began = time.monotonic()
        answer = await self._request(number)
        self.seconds.append(time.monotonic() - began)
        return answer

    async def _request(self, number: int) -> httpx2.Response:
        match number % 6:
            case 0:
                return await self._service.post("/api/v1/classify/check-cache", json={"image_hash": sha256(KNOWN)})
            case 1:
                return await self._service.post(
                    "/api/v1/classify/check-cache", json={"image_hash": os.urandom(32).hex()}
                )
            case 2:
                self._photos += 1
                return await self._service.post("/api/v1/classify", files={"image": jpeg_photo(32 + self._photos, 32)})
            case 3:
                return await self._service.get("/api/v1/stats/today")
            case 4:
                return await self._service.get("/images/inference/tasks", headers=self._token)
            case _:
                return await self._service.get("/images/", headers=self._token)


async def test_a_frozen_database_holds_few_requests_and_not_for_long(
    service: httpx2.AsyncClient, server: tuple[int, int], environment: dict[str, str]
) -> None:
    port, mysqld = server
    data_dir = Path(environment["DATA_DIR"])
    answer = await service.post("/api/v1/classify", files={"image": KNOWN})
    assert answer.status_code == 200, answer.text
    await sign_up(service)
    requests = Requests(service, await log_in(service))
    answers = [answer, *await requests.ask(2)]

    os.kill(mysqld, signal.SIGSTOP)
    requests.seconds.clear()
    first = await requests.ask(4)
    assert max(requests.seconds) < TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS
    live, health = await asyncio.gather(timed(service, "/api/v1/health/live"), timed(service, "/api/v1/health"))
    assert live[0] == 200
    assert live[1] < SLACK_SECONDS
    assert health[0] == 503
    assert health[1] < DATABASE_CHECK_TIMEOUT_SECONDS + SLACK_SECONDS
    requests.seconds.clear()
    later = [answer for _ in range(10) for answer in await requests.ask(2)]
    # Each alone would have waited for longer.
    assert sum(requests.seconds) / len(requests.seconds) < 1
    hits = [answer for answer in first + later if answer.status_code == 200]
    assert hits
    assert {answer.json()["cached"] for answer in hits} == {True}
    answers += hits
    for refused in first + later:
        if refused not in hits:
            assert error_code(refused) == "database_unavailable"
            assert (refused.status_code, int(refused.headers["Retry-After"]) >= 1) == (503, True)

    os.kill(mysqld, signal.SIGCONT)
    back_at = time.monotonic()
    last = await requests.ask(2)
    while {answer.status_code for answer in last} != {200}:
        assert time.monotonic() - back_at < 3 + SLACK_SECONDS, last
        await asyncio.sleep(0.05)
        answers += last
        last = await requests.ask(2)
    answers += last
    assert (await service.get("/api/v1/health")).status_code == 200
    while spool_files(data_dir):
        assert time.monotonic() - back_at < PATIENCE_SECONDS
        await asyncio.sleep(0.05)
    with pymysql.connect(host="127.0.0.1", port=port, user="root", database="image_classifier") as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT request_id FROM request_log")
        logged = [request_id for (request_id,) in cursor.fetchall()]
    # What was acknowledged was written, and nothing twice.
    told = {answer.json()["request_id"] for answer in answers if "from_cache" in answer.json()}
    assert len(told) > 4
    assert told <= set(logged)
    assert len(set(logged)) == len(logged)


async def timed(service: httpx2.AsyncClient, path: str) -> tuple[int, float]:
    began = time.monotonic()
    answer = await service.get(path)
    return answer.status_code, time.monotonic() - began
