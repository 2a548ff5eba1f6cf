"""Nothing is lost when workers come and go, and together they take no more of MySQL than they may."""

import asyncio
import hashlib
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from sqlalchemy import text

from app.config.settings import PROJECT_ROOT
from tests.fakes.images import jpeg_photo
from tests.servers.databases import Servers
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process
from tests.support.databases import admin_engine, fresh_database
from tests.support.server_clients import PHASE_SECONDS, asking

GUNICORN = [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn_config.py", "app.main:app"]
CHECK = "/api/v1/classify/check-cache"
PHOTO = jpeg_photo(64, 64)
QUESTION = {"image_hash": hashlib.sha256(PHOTO).hexdigest()}


@contextmanager
def gunicorn(port: int, environment: dict[str, str], *options: str) -> Iterator[RunningProcess]:
    """A gunicorn that knows PHOTO."""
    with start_process(
        [*GUNICORN, *options],
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env={**environment, "APP_PORT": str(port)},
        cwd=PROJECT_ROOT,
        grace_seconds=20,
    ) as process:
        answer = httpx2.post(f"http://127.0.0.1:{port}/api/v1/classify", files={"image": PHOTO}, timeout=120)
        assert answer.status_code == 200, answer.text
        yield process


# Workers start over and over, each of which takes seconds on a busy machine.


async def test_no_request_is_lost_when_workers_are_recycled_reloaded_and_stopped(
    servers: Servers, environment: dict[str, str]
) -> None:
    port = free_port()
    async with fresh_database("mysql", servers.mysql_url) as database, admin_engine(database.url) as engine:
        variables = {**environment, "DATABASE_URL": database.url}
        options = ["--workers", "2", "--max-requests", "50", "--max-requests-jitter", "10"]
        with gunicorn(port, variables, *options) as process:
            async with asking(port, CHECK, QUESTION, clients=20) as clients:
                async with asyncio.timeout(PHASE_SECONDS):
                    while process.output().count("Maximum request limit") < 2:
                        await clients.answers(50)
                for _ in range(3):
                    process.send_signal(signal.SIGHUP)
                    await clients.answers(80)
                process.send_signal(signal.SIGTERM)
                clients.stop_when_refused.set()
                await clients.finished()
                seen = clients.ledger
            assert await asyncio.to_thread(process.wait, 60) == 0
            output = process.output()
        async with engine.connect() as connection:
            rows = (await connection.scalars(text("SELECT request_id FROM request_log"))).all()
            hits = await connection.scalar(text("SELECT hit_count FROM image_classification_cache"))
    assert seen.lost == []
    assert set(seen.statuses) == {200}
    # The photo's upload is a row, too, and the first of the hits.
    assert len(rows) == len(set(rows)) == seen.answers + 1 == hits
    assert set(seen.request_ids) < set(rows)
    assert "Traceback" not in output
    assert "WORKER TIMEOUT" not in output


def test_a_worker_that_is_told_to_leave_while_it_starts_first_answers_who_waits(environment: dict[str, str]) -> None:
    port = free_port()

    def has_forked(process: int) -> bool:
        return bool(Path(f"/proc/{process}/task/{process}/children").read_text())

    with start_process(
        [*GUNICORN, "--workers", "1"],
        ready=lambda: accepts(port),
        env={**environment, "APP_PORT": str(port)},
        cwd=PROJECT_ROOT,
        grace_seconds=20,
    ) as process:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /api/v1/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
            while not has_forked(process.pid):
                time.sleep(0.01)
            # It takes a second or more to import the application.
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            client.settimeout(60)
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert process.wait(120) == 0


def accepts(port: int) -> bool:
    """Whether a server listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_all_workers_together_stay_below_the_total(servers: Servers, environment: dict[str, str]) -> None:
    port, total, workers = free_port(), 10, 3
    async with fresh_database("mysql", servers.mysql_url) as database, admin_engine(database.server_url) as engine:
        variables = {**environment, "DATABASE_URL": database.url, "MYSQL_MAX_CONNECTIONS_TOTAL": str(total)}
        counts = Counter[int]()
        with gunicorn(port, variables, "--workers", str(workers)):
            async with engine.connect() as connection, asking(port, CHECK, QUESTION, clients=48) as clients:
                while clients.ledger.answers < 600:
                    assert not clients.ledger.lost
                    query = text("SELECT COUNT(*) FROM information_schema.processlist WHERE db = :name")
                    counts[await connection.scalar(query, {"name": database.name}) or 0] += 1
                    await asyncio.sleep(0.01)
                assert set(clients.ledger.statuses) == {200}
    # Each may take three; with the usual pools this load takes more than the total.
    assert workers < max(counts) <= total, counts
