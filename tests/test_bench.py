"""The benchmark works and cannot lie about what was lost; nothing is said here about how fast anything is."""

import dataclasses
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import PROJECT_ROOT
from app.database.tables import CachedImage, RequestLog
from bench import wrk as wrk_module
from bench.databases import NotDurableError, require_durable
from bench.ledger import AccountingError, Ledger, check_ledger, read_ledger
from bench.load import PLACEHOLDER, Load, LoadError, Request, run_load
from bench.report import LOAD_COLUMNS, PROCESS_COLUMNS
from bench.wrk import Wrk, WrkMissingError, get_wrk
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.servers.databases import Servers
from tests.servers.processes import start_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc")

QUICK_RUN_TIMEOUT_SECONDS = 110
LINES = [
    ("check-cache", "yardstick", "1"),
    ("check-cache", "yardstick", "32"),
    ("upload", "yardstick", "8"),
    *(
        (title, database, connections)
        for database in ("SERVER, instant", "SQLite, instant")
        for title, connections in (
            ("check-cache, hit", "1"),
            ("check-cache, hit", "32"),
            ("upload, known photo", "8"),
            ("upload, new photo", "8"),
        )
    ),
    ("upload, new photo", "SQLite, local", "1"),
    ("upload, new photo", "SQLite, local", "2"),
]
BLOCKING_DRIVERS = {"sqlite": "sqlite", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
WORKERS = ["yardstick", "SERVER, instant", "SQLite, instant", "SQLite, local"]


@pytest.fixture(scope="session")
def wrk() -> Wrk:
    """The load generator; without it there is nothing to test here."""
    try:
        return get_wrk()
    except WrkMissingError as error:
        pytest.skip(str(error))


def table(text: str, columns: tuple[str, ...]) -> list[list[str]]:
    """The cells below the header with these columns, the MySQL or MariaDB server under one name."""
    lines = text.partition(f"| {' | '.join(columns)} |\n")[2].splitlines()[1:]
    end = next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [re.sub(r"(MySQL|MariaDB) [\d.]+", "SERVER", line).strip("| ").split(" | ") for line in lines[:end]]


@pytest.mark.usefixtures("wrk")
def test_a_quick_run_measures_every_line_and_balances_the_books() -> None:
    command = [sys.executable, "-m", "bench", "--quick"]
    with start_process(command, ready=lambda: True, cwd=PROJECT_ROOT) as process:
        status = process.wait(QUICK_RUN_TIMEOUT_SECONDS)
        output = process.output()
    assert status == 0, output
    loads, workers = table(output, LOAD_COLUMNS), table(output, PROCESS_COLUMNS)
    assert [tuple(cells[:3]) for cells in loads] == LINES
    for cells in loads:
        rate, _, p50, p99, _, ratio, memory = cells[3:]
        assert float(rate) > 0, cells
        assert 0 < float(p50) <= float(p99), cells
        assert (ratio == "–") == (cells[1] in {"yardstick", "SQLite, local"}), cells
        assert float(memory) > 0, cells
    assert [cells[0] for cells in workers] == WORKERS
    assert all(float(cell) > 0 for cells in workers for cell in cells[1:])


def answering(status: int, body: object) -> HTTPResponse:
    return HTTPResponse(status, json.dumps(body, separators=(",", ":")).encode())


def test_answers_are_counted_by_what_they_say(wrk: Wrk) -> None:
    bodies: list[bytes] = []

    async def handle(request: HTTPRequest) -> HTTPResponse:
        bodies.append(request.body)
        return answering(200, {"from_cache": len(bodies) % 2 == 0})

    with running_http_server(handle) as url:
        request = Request("/photos", "text/plain", b"<" + PLACEHOLDER + b">")
        load = run_load(wrk, url, request, connections=4, seconds=0.2)
    # Every request that was sent was also answered and counted.
    assert load.answers == len(bodies) == len(set(bodies))
    assert load.cached == len(bodies) // 2
    assert {len(body) for body in bodies} == {len(PLACEHOLDER) + 2}


@pytest.mark.parametrize(
    "wrong", [answering(500, {"from_cache": True}), answering(200, {"success": True})], ids=["status", "body"]
)
def test_one_wrong_answer_among_many_fails_the_load(wrk: Wrk, wrong: HTTPResponse) -> None:
    answered = 0

    async def handle(request: HTTPRequest) -> HTTPResponse:
        nonlocal answered
        answered += 1
        return wrong if answered == 3 else answering(200, {"from_cache": True})

    with running_http_server(handle) as url, pytest.raises(LoadError, match="no classification"):
        run_load(wrk, url, Request("/", "text/plain", b"?"), connections=1, seconds=0.2)


async def test_the_books_are_read_as_they_are(engine: AsyncEngine) -> None:
    row = {"image_hash": "a" * 64, "category": "pets", "confidence": 0.9, "created_at": datetime.now(UTC)}
    entry = {**row, "model_used": "test", "hit_count": 3, "last_hit_at": datetime.now(UTC)}
    async with engine.begin() as connection:
        await connection.execute(insert(CachedImage), [entry])
        await connection.execute(
            insert(RequestLog), [{**row, "request_id": str(number), "from_cache": number > 0} for number in range(3)]
        )
    reader = create_engine(engine.url.set(drivername=BLOCKING_DRIVERS[engine.url.get_backend_name()]))
    try:
        assert read_ledger(reader) == Ledger(cached_rows=2, fresh_rows=1, entries=1, hit_count=3)
    finally:
        reader.dispose()


def test_what_was_lost_or_written_twice_is_noticed() -> None:
    load = Load(cached=7, fresh=3, elapsed_seconds=1, p50_ms=1, p99_ms=1)
    right = Ledger(cached_rows=7, fresh_rows=3, entries=3, hit_count=10)
    check_ledger(right, load)
    for name, value in dataclasses.asdict(right).items():
        for wrong in (value - 1, value + 1):
            with pytest.raises(AccountingError):
                check_ledger(dataclasses.replace(right, **{name: wrong}), load)


@pytest.mark.skipif("TEST_MYSQL_URL" in os.environ, reason="whether that server is durable is not ours to know")
def test_a_server_that_does_not_wait_for_the_disk_is_refused(servers: Servers) -> None:
    engine = create_engine(make_url(servers.mysql_url).set(drivername="mysql+pymysql"))
    try:
        with pytest.raises(NotDurableError, match="innodb_flush_log_at_trx_commit=0"):
            require_durable(engine)
    finally:
        engine.dispose()


def test_without_wrk_and_apt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(wrk_module, "CACHE", tmp_path / "cache")
    with pytest.raises(WrkMissingError, match="Install the package wrk"):
        get_wrk()
