"""`python -m bench.restarts`: how long clients hear nothing while gunicorn's workers are replaced on a busy machine.

Sixteen clients ask for a known photo, two upload new ones, one asks `/health` twenty times a second. Meanwhile SIGHUP
reloads all workers, or (`recycled`) each ends after so many requests. Processes that only compute keep the cores busy.
A client never tries again, so a request without an answer is lost.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

from app.config.settings import PROJECT_ROOT
from bench.command import run_command
from bench.databases import MysqlServer, mysql_server
from bench.report import render_table
from bench.services import ServiceCommand, our_service, start_service
from bench.wrk import Wrk
from tests.fakes.images import jpeg_photo
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process

CLIENTS, UPLOADERS = 16, 2
BUSY_PROCESSES = 8
PAUSE_SECONDS, UPLOAD_PAUSE_SECONDS, HEALTH_PAUSE_SECONDS = 0.02, 0.2, 0.05
RECYCLED_AFTER = 3000
ANSWER_WITHIN_SECONDS = 120
PHOTO = jpeg_photo(64, 64)
COLUMNS = ("workers", "replaced by", "seconds", "answers", "lost", "not 200", "silence s", "slowest s", "health s")


@dataclass(slots=True)
class Seen:
    """What the clients have seen: when answers came, how long each took, and what became of the rest."""

    answered_at: list[float] = field(default_factory=list)
    took: dict[str, list[float]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, default=PROJECT_ROOT, help="whose service is measured (this one)")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--ways", nargs="+", choices=["SIGHUP", "recycled"], default=["SIGHUP", "recycled"])
    parser.add_argument("--busy", type=int, default=BUSY_PROCESSES, help="processes that compute beside them (8)")
    given = parser.parse_args(arguments)
    return run_command(partial(_run, given))


def _run(given: argparse.Namespace, _: Wrk) -> None:
    cells = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = stack.enter_context(mysql_server())
        model = stack.enter_context(start_service(ServiceCommand("model", "bench.instant_model:app", Path(folder))))
        for workers in given.workers:
            for way in given.ways:
                row = _measure(server, model.url, Path(folder), given.checkout.resolve(), workers, way, given.busy)
                cells.append([str(workers), way, *row])
                print(" ".join(cells[-1]), file=sys.stderr)
    print(render_table(COLUMNS, 1, cells))


def _measure(
    server: MysqlServer, model_url: str, folder: Path, checkout: Path, workers: int, way: str, busy: int
) -> list[str]:
    port = free_port()
    with server.database() as database:
        variables = our_service(uuid4().hex, database.url, folder, model_url=model_url).environment
        limits = ["--max-requests", str(RECYCLED_AFTER), "--max-requests-jitter", "100"] if way == "recycled" else []
        gunicorn = [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn_config.py", "app.main:app"]
        service = start_process(
            [*gunicorn, "--workers", str(workers), *limits],
            ready=lambda: answers_http(port, "/api/v1/health/live"),
            env={
                "PATH": os.environ["PATH"],
                "APP_PORT": str(port),
                "APP_HOST": "127.0.0.1",
                "PYTHONPATH": str(checkout),
                "WEB_CONCURRENCY": str(workers),
                **variables,
            },
            cwd=checkout,
            grace_seconds=20,
        )
        with service as process, _computing(busy):
            seen, seconds = asyncio.run(_watch(process, port, workers, way))
    gaps = [later - earlier for earlier, later in pairwise(sorted(seen.answered_at))]
    health = max(seen.took.get("GET", [0.0]))
    slowest = max(max(took) for took in seen.took.values())
    figures = (f"{max(gaps):.2f}", f"{slowest:.2f}", f"{health:.2f}")
    return [f"{seconds:.0f}", str(len(seen.answered_at)), str(len(seen.lost)), str(len(seen.refused)), *figures]


@contextlib.contextmanager
def _computing(number: int) -> Iterator[None]:
    """Processes that only compute, for the length of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def _watch(process: RunningProcess, port: int, workers: int, way: str) -> tuple[Seen, float]:
    seen, stop = Seen(), asyncio.Event()
    known = json.dumps({"image_hash": hashlib.sha256(PHOTO).hexdigest()}).encode()
    look_up = _request("POST", "/api/v1/classify/check-cache", "application/json", known)
    # What is measured is the service, not how often this process has its turn.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    async with asyncio.TaskGroup() as group:
        await _ask(port, _upload(PHOTO), Seen())
        for _ in range(CLIENTS):
            group.create_task(_keep_asking(port, lambda _: look_up, seen, stop, PAUSE_SECONDS))
        for number in range(UPLOADERS):
            group.create_task(_keep_asking(port, partial(_new_upload, number), seen, stop, UPLOAD_PAUSE_SECONDS))
        health = _request("GET", "/api/v1/health", "text/plain", b"")
        group.create_task(_keep_asking(port, lambda _: health, seen, stop, HEALTH_PAUSE_SECONDS))
        await _answers(seen, 200)
        began = time.monotonic()
        old = _children(process.pid)
        if way == "SIGHUP":
            process.send_signal(signal.SIGHUP)
        # All that served at the beginning have gone, and as many others serve.
        while old & _children(process.pid) or len(_children(process.pid)) != workers:
            await asyncio.sleep(0.1)
            if time.monotonic() - began > 600:
                raise TimeoutError(process.output()[-3000:])
        seconds = time.monotonic() - began
        # Until those have answered, too.
        await asyncio.sleep(2)
        await _answers(seen, 200)
        stop.set()
    return seen, seconds


async def _answers(seen: Seen, more: int) -> None:
    goal = len(seen.answered_at) + more
    while len(seen.answered_at) < goal:  # noqa: ASYNC110 - a look now and then costs the clients least
        await asyncio.sleep(0.05)


def _children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def _new_upload(client: int, number: int) -> bytes:
    return _upload(jpeg_photo(64 + 1000 * client + number % 500, 64 + number // 500))


def _upload(photo: bytes) -> bytes:
    boundary = "bench-boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
    body = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + photo + f"\r\n--{boundary}--\r\n".encode()
    return _request("POST", "/api/v1/classify", f"multipart/form-data; boundary={boundary}", body)


def _request(method: str, path: str, content_type: str, body: bytes) -> bytes:
    lines = f"Host: bench\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"{method} {path} HTTP/1.1\r\n{lines}".encode() + body


async def _keep_asking(
    port: int, request: Callable[[int], bytes], seen: Seen, stop: asyncio.Event, pause_seconds: float
) -> None:
    number, connection = 0, None
    while not stop.is_set():
        number += 1
        connection = await _ask(port, request(number), seen, connection)
        await asyncio.sleep(pause_seconds)
    if connection is not None:
        connection[1].close()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _ask(port: int, request: bytes, seen: Seen, connection: Connection | None = None) -> Connection | None:
    """Send one request and note its answer; return the connection if it may be used again."""
    began = time.monotonic()
    if connection is not None and (connection[0].at_eof() or connection[1].is_closing()):
        connection[1].close()
        connection = None
    received = b""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
            reader, writer = connection or await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            received = await reader.readuntil(b"\r\n\r\n")
            status, *lines = received.decode().lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if line)
            await reader.readexactly(int(headers["content-length"]))
    except (OSError, EOFError, TimeoutError) as error:
        seen.lost.append(f"{type(error).__name__} after {received!r}")
        return None
    now = time.monotonic()
    seen.answered_at.append(now)
    seen.took.setdefault(request.split(b" ", 1)[0].decode(), []).append(now - began)
    if (code := int(status.split()[1])) != 200:
        seen.refused.append(code)
    if headers.get("connection") == "close":
        writer.close()
        return None
    return reader, writer


if __name__ == "__main__":
    sys.exit(main())
