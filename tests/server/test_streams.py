"""Open streams do not hold up a server that leaves, and a signal reaches the application while it still serves."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.config.settings import PROJECT_ROOT
from app.server.shutdown import announce_shutdown, on_shutdown
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process
from tests.support.people import bearer, log_in, sign_up

GUNICORN = [
    str(Path(sys.executable).with_name("gunicorn")),
    "-c",
    "gunicorn_config.py",
    "--workers",
    "1",
    "app.main:app",
]
UVICORN = [sys.executable, "-m", "uvicorn", "app.main:app"]
# The linger of app/server/draining.py and what a busy machine takes; far below the time that answers are waited for.
LEAVES_WITHIN_SECONDS = 30


@pytest.mark.parametrize(
    ("server", "number"),
    [("gunicorn", signal.SIGTERM), ("gunicorn", signal.SIGINT), ("uvicorn", signal.SIGTERM)],
)
async def test_streams_end_when_the_server_is_told_to(
    environment: dict[str, str], server: str, number: signal.Signals
) -> None:
    port = free_port()
    command = GUNICORN if server == "gunicorn" else [*UVICORN, "--port", str(port)]
    with start_process(
        command,
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env={**environment, "APP_PORT": str(port)},
        cwd=PROJECT_ROOT,
        grace_seconds=5,
    ) as process:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            await sign_up(client)
            token = await log_in(client)
            url = f"ws://127.0.0.1:{port}/ws/inference?token={token}"
            async with (
                connect(url, proxy=None) as socket,
                client.stream("GET", "/images/inference/events", headers=bearer(token)) as stream,
            ):
                assert json.loads(await socket.recv())["event"] == "hello"
                lines = stream.aiter_lines()
                assert (await anext(lines)).startswith("id: ")
                started = time.monotonic()
                process.send_signal(number)
                async with asyncio.timeout(LEAVES_WITHIN_SECONDS):
                    with pytest.raises(ConnectionClosed):
                        await socket.recv()
                    assert socket.close_code == 1012
                    assert [line async for line in lines][-1] == ""
            assert await asyncio.to_thread(process.wait, LEAVES_WITHIN_SECONDS) is not None
            assert time.monotonic() - started < LEAVES_WITHIN_SECONDS
        output = process.output()
    assert "Traceback" not in output
    assert "Cancel" not in output
    assert 'WebSocket /ws/inference" [accepted]' in output
    assert token not in output


@pytest.mark.parametrize("way", ["recycled", "reloaded"])
async def test_a_worker_that_is_replaced_does_not_wait_for_streams_and_clients_come_back(
    environment: dict[str, str], way: str
) -> None:
    port = free_port()
    limit = ["--max-requests", "10", "--max-requests-jitter", "0"] if way == "recycled" else []
    command = [*GUNICORN[:-1], *limit, GUNICORN[-1]]
    with start_process(
        command,
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env={**environment, "APP_PORT": str(port)},
        cwd=PROJECT_ROOT,
        grace_seconds=20,
    ) as process:
        # Nothing but the streams stays open.
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits) as client:
            await sign_up(client)
            token = await log_in(client)
            url = f"ws://127.0.0.1:{port}/ws/inference?token={token}"
            async with (
                connect(url, proxy=None) as socket,
                client.stream("GET", "/images/inference/events", headers=bearer(token)) as stream,
            ):
                last_id = json.loads(await socket.recv())["last_id"]
                (old,) = workers_of(process)
                if way == "reloaded":
                    process.send_signal(signal.SIGHUP)
                while way == "recycled" and "Maximum request limit" not in process.output():
                    assert (await client.get("/models")).status_code == 200
                # The keep-alive time of gunicorn_config.py is 65 seconds.
                async with asyncio.timeout(LEAVES_WITHIN_SECONDS):
                    with pytest.raises(ConnectionClosed):
                        await socket.recv()
                    assert socket.close_code == 1012
                    async for _ in stream.aiter_lines():
                        continue
                    while old in workers_of(process):  # noqa: ASYNC110 - a process that ends tells us nothing
                        await asyncio.sleep(0.1)
            async with connect(f"{url}&since={last_id}", proxy=None, open_timeout=60) as socket:
                assert json.loads(await socket.recv()) == {"event": "hello", "last_id": last_id}
        output = process.output()
    assert "Traceback" not in output
    assert "Cancel" not in output


def workers_of(process: RunningProcess) -> list[int]:
    """The process ids of gunicorn's workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [int(pid) for pid in children.split()]


async def test_whoever_wants_to_know_hears_of_a_signal_once() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append("the server"))
    try:
        own = signal.getsignal(signal.SIGTERM)
        with on_shutdown(lambda: heard.append("the application")):
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(120):
                while len(heard) < 2:  # noqa: ASYNC110 - a list wakes no task
                    await asyncio.sleep(0.001)
            assert sorted(heard) == ["the application", "the server"]
            announce_shutdown()
            assert len(heard) == 3
        assert signal.getsignal(signal.SIGTERM) is own
        announce_shutdown()
        assert len(heard) == 3
    finally:
        signal.signal(signal.SIGTERM, before)
