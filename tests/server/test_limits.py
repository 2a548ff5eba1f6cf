"""Heads that do not end, and clients that fall silent, cost next to nothing, whatever stands before the service."""

import asyncio
import contextlib
import json
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Receive, Scope, Send

from app.config.settings import Settings
from app.main import create_app
from app.server import draining, limits
from app.server.limits import MAX_HEAD_BYTES, MAX_HEAD_LINES, MIN_BYTES_PER_SECOND
from tests.server.test_shutdown import DEADLINE_SECONDS, REQUEST, Client, serving, until
from tests.servers.processes import free_port
from tests.support.running import running
from tests.support.server_application import app

HEAD = b"POST / HTTP/1.1\r\nHost: test\r\n"


async def answer_of(client: Client) -> tuple[int, str]:
    """Status and error code of what the server says before it closes the connection."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
    answer = json.loads(body)
    assert answer["success"] is False
    assert answer.keys() == {"success", "error", "request_id", "timestamp"}
    assert f"x-request-id: {answer['request_id']}" in head.decode().lower()
    assert b"connection: close" in head
    return int(head.split()[1]), answer["error"]["code"]


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(limits, "SILENCE_SECONDS", 0.2)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(HEAD + b"X-A: b\r\n" * MAX_HEAD_LINES + b"\r\n", id="lines"),
        pytest.param(HEAD + b"X-A: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", id="one complete line"),
        pytest.param(HEAD + b"X-A: " + b"b" * MAX_HEAD_BYTES * 8, id="a line without end"),
        pytest.param(HEAD + b"a" * MAX_HEAD_BYTES * 8, id="a name without end"),
        pytest.param(b"GET /" + b"a" * MAX_HEAD_BYTES * 8, id="an address without end"),
        pytest.param(b"\r\n" * MAX_HEAD_BYTES * 4, id="nothing but ends of lines"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-A: b\r\n" * MAX_HEAD_LINES, id="trailers"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;a=" + b"b" * MAX_HEAD_BYTES * 8, id="an extension without end"
        ),
    ],
)
async def test_a_head_over_the_limit_is_refused(head: bytes) -> None:
    async with serving() as (server, clients, _):
        client = await clients.connect()
        client.writer.write(head)
        assert await answer_of(client) == (431, "headers_too_large")
        await until(lambda: not server.server_state.connections)


async def test_a_head_at_the_limit_is_taken() -> None:
    async with serving() as (_, clients, _):
        client = await clients.connect()
        await client.ask(REQUEST[:-2] + b"X-A: b\r\n" * (MAX_HEAD_LINES - 1) + b"\r\n")
        await client.ask(REQUEST[:-2] + b"X-A: " + b"b" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n")


async def test_megabytes_of_header_lines_are_not_kept() -> None:
    async with serving() as (server, clients, _):
        await (await clients.connect()).ask()
        client = Client(*await asyncio.open_connection("127.0.0.1", clients.port))
        tracemalloc.start()
        try:
            client.writer.write(HEAD)
            with contextlib.suppress(ConnectionError):
                for number in range(30_000):
                    client.writer.write(b"X-%d: " % number + b"b" * 1000 + b"\r\n")
                    await client.writer.drain()
            await until(lambda: len(server.server_state.connections) == 1)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            client.writer.transport.abort()
    assert peak < 4_000_000


async def test_what_is_no_http_is_refused_in_the_one_format() -> None:
    async with serving() as (_, clients, _):
        client = await clients.connect()
        client.writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
        assert await answer_of(client) == (400, "invalid_request")


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        pytest.param(b"Content-Length: 50\r\n\r\nhalf", "请求未能及时到达，请在网络较好时重发。", id="half a body"),
        pytest.param(b"X-A: b\r\n" * MAX_HEAD_LINES, "请求头超过 100 行，或超过 64 KB。", id="a part of a head"),
    ],
)
async def test_the_answer_is_in_the_language_that_has_been_asked_for(rest: bytes, sentence: str) -> None:
    async with serving() as (_, clients, _):
        client = await clients.connect()
        client.writer.write(HEAD + b"Accept-Language: zh-CN\r\n" + rest)
        async with asyncio.timeout(DEADLINE_SECONDS):
            _, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
        assert json.loads(body)["error"]["message"] == sentence


@pytest.mark.usefixtures("impatience")
async def test_a_connection_without_a_request_is_closed() -> None:
    async with serving() as (server, clients, _):
        silent = [await clients.connect() for _ in range(50)]
        assert all([await client.is_closed() for client in silent])
        await until(lambda: not server.server_state.connections)


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_head_has_to_be_complete_in_time(*, is_first: bool) -> None:
    async with serving(timeout_keep_alive=3600) as (_, clients, _):
        client = await clients.connect()
        if not is_first:
            await client.ask()
        answer = asyncio.create_task(answer_of(client))
        # A byte now and then is no silence, but no head either.
        client.writer.write(REQUEST[:5])
        for _ in range(DEADLINE_SECONDS * 50):
            if answer.done():
                break
            client.writer.write(b"a")
            await asyncio.sleep(0.02)
        assert await answer == (408, "request_timeout")


@pytest.mark.usefixtures("impatience")
async def test_a_body_that_stops_to_arrive_is_given_up() -> None:
    async with serving() as (server, clients, _):
        client = await clients.connect()
        client.writer.write(HEAD + b"Content-Length: 50\r\n\r\nhalf")
        assert await answer_of(client) == (408, "request_timeout")
        await until(lambda: not server.server_state.tasks)


@pytest.mark.usefixtures("impatience")
async def test_a_pause_of_the_process_is_not_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    # Shorter than the pause, but not so short that a busy machine makes pauses of its own.
    for name in ("RATE_AFTER_SECONDS", "SILENCE_SECONDS"):
        monkeypatch.setattr(limits, name, 1.0)
    async with serving() as (_, clients, _):
        client = await clients.connect()
        client.writer.write(HEAD + b"Content-Length: 8\r\n\r\nhalf")
        await asyncio.sleep(0.1)
        # The server lives in this event loop, and stands still with it.
        time.sleep(2)  # noqa: ASYNC251
        # A check of the server comes before the rest.
        await asyncio.sleep(0.05)
        await client.ask(b"rest")


@pytest.mark.usefixtures("impatience")
async def test_an_idle_connection_between_requests_is_kept() -> None:
    async with serving(timeout_keep_alive=3600) as (_, clients, _):
        client = await clients.connect()
        for _ in range(3):
            await client.ask()
            await asyncio.sleep(0.5)


@pytest.mark.usefixtures("impatience")
async def test_a_client_that_we_do_not_listen_to_is_not_silent() -> None:
    goes_on = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await goes_on.wait()
        await app(scope, receive, send)

    async with serving(slow) as (_, clients, _):
        blocked, asking = await clients.connect(), await clients.connect()
        body = b"x" * 300_000
        # More than is taken before the application reads; and a client that waits to be told to go on.
        first = asyncio.create_task(blocked.ask(HEAD + b"Content-Length: 300000\r\n\r\n" + body))
        asking.writer.write(HEAD + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        await asyncio.sleep(0.6)
        goes_on.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert b" 100 " in await asking.reader.readuntil(b"\r\n\r\n")
        await asking.ask(b"body")
        await first


async def drip(client: Client, head: bytes) -> tuple[int, str]:
    """Send a head, and of the body a byte now and then: no silence, but no request either. Returns the answer."""
    client.writer.write(head)
    answer = asyncio.create_task(answer_of(client))
    for _ in range(DEADLINE_SECONDS * 50):
        if answer.done():
            break
        client.writer.write(b" ")
        await asyncio.sleep(0.02)
    return await answer


async def test_a_body_has_to_arrive_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(limits, "RATE_AFTER_SECONDS", 0.2)
    async with serving() as (server, clients, _):
        server.lifespan.state[MIN_BYTES_PER_SECOND] = 1000
        assert await drip(await clients.connect(), HEAD + b"Content-Length: 5000\r\n\r\n") == (408, "request_timeout")
        await until(lambda: not server.server_state.tasks)


@pytest.mark.parametrize("rate", [0, 10])
async def test_a_body_that_keeps_the_pace_is_taken(monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    monkeypatch.setattr(draining, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(limits, "RATE_AFTER_SECONDS", 0.0)
    async with serving() as (server, clients, _):
        server.lifespan.state[MIN_BYTES_PER_SECOND] = rate
        client = await clients.connect()
        # Enough for minutes, and then for a while nothing.
        client.writer.write(HEAD + b"Content-Length: 5000\r\n\r\n" + b"x" * 4999)
        await asyncio.sleep(0.3)
        await client.ask(b"x")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_json_has_to_arrive_at_the_pace_of_the_settings(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(limits, "RATE_AFTER_SECONDS", 0.2)
    head = b"POST /api/v1/classify/check-cache HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    async with serving(create_app(settings), lifespan="on") as (_, clients, _):
        assert await drip(await clients.connect(), head + b"Content-Length: 5000\r\n\r\n") == (408, "request_timeout")


@pytest.mark.parametrize("name", ["python", "gunicorn"])
def test_both_servers_have_the_limits(environment: dict[str, str], name: str) -> None:
    port = free_port()
    environment |= {"APP_PORT": str(port), "WEB_CONCURRENCY": "1"}

    async def attack() -> tuple[tuple[int, str], list[bool]]:
        silent = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(50)]
        loud = Client(*await asyncio.open_connection("127.0.0.1", port))
        loud.writer.write(HEAD + b"X-A: b\r\n" * 5000)
        refused = await answer_of(loud)
        closed = [await client.is_closed() for client in silent]
        for client in [*silent, loud]:
            client.writer.close()
        return refused, closed

    with running(name, port, environment) as process:
        before = resident_bytes(process.pid)
        refused, closed = asyncio.run(attack())
        after = resident_bytes(process.pid)
    assert refused == (431, "headers_too_large")
    assert all(closed)
    assert after - before < 20_000_000


def resident_bytes(pid: int) -> int:
    """Memory of a process and its children."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    found = [re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{each}/status").read_text()) for each in pids]
    return sum(int(each[1]) * 1024 for each in found if each)
