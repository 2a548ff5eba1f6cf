"""The benchmark works and cannot lie about what was lost; nothing is said here about how fast anything is."""

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.config.settings import PROJECT_ROOT
from app.database.tables.classification import CachedImage
from app.database.tables.request_log import RequestLog
from bench import ledger as ledger_module
from bench import wrk as wrk_module
from bench.databases import NotDurableError, require_durable
from bench.growth import fill_cache
from bench.ledger import AccountingError, Ledger, await_ledger, check_ledger, read_ledger
from bench.lines import HIT, KNOWN, MANY_HITS, MISS, NEW
from bench.load import PLACEHOLDER, Load, LoadError, Outcome, Request, run_load
from bench.profile import REST, SYSTEM, read_profile, render_profile
from bench.report import LOAD_COLUMNS, PROCESS_COLUMNS, TARGET_COLUMNS
from bench.requests import hash_of_number
from bench.targets import Goal
from bench.wrk import Wrk, WrkMissingError, get_wrk
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.servers.databases import Servers
from tests.servers.processes import start_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc")

# Less than a minute where nothing else runs; the suite is not alone.
QUICK_RUN_TIMEOUT_SECONDS = 540
ASKED = ("bare", "yardstick", "naive", "ours", "ours, async", "ours, no binary log")
LINES = [
    *((HIT, service, "1") for service in (*ASKED, "ours, SQLite")),
    *((HIT, service, "32") for service in ASKED),
    (MANY_HITS, "ours", "32"),
    (MISS, "ours", "32"),
    (HIT, "ours, SQLite", "32"),
    *((HIT, service, connections) for connections in ("128", "256") for service in ASKED),
    *((KNOWN, service, "8") for service in ("bare", "yardstick", "naive", "ours", "ours, SQLite")),
    *((NEW, service, "8") for service in ("yardstick", "ours")),
    *((NEW, "ours, SQLite, local model", connections) for connections in ("1", "2")),
]
BLOCKING_DRIVERS = {"sqlite": "sqlite", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
WORKERS = [*ASKED, "ours, SQLite", "ours, SQLite, local model"]
LOAD = Load(cached=7, fresh=3, missed=5, elapsed_seconds=1, p50_ms=1, p99_ms=1)
BOOKS = Ledger(cached_rows=7, fresh_rows=3, entries=3, hit_count=10)


@pytest.fixture(scope="session")
def wrk() -> Wrk:
    """The load generator; without it there is nothing to test here."""
    try:
        return get_wrk()
    except WrkMissingError as error:
        pytest.skip(str(error))


def table(text: str, columns: tuple[str, ...]) -> list[list[str]]:
    """The cells below the header with these columns."""
    lines = text.partition(f"| {' | '.join(columns)} |\n")[2].splitlines()[1:]
    end = next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [line.strip("| ").split(" | ") for line in lines[:end]]


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
        title, service = cells[:2]
        rate, _, p50, p99, cpu, of_yardstick, of_naive, memory = cells[3:]
        assert float(rate) > 0, cells
        assert 0 < float(p50) <= float(p99), cells
        assert float(cpu) >= 0, cells
        assert (of_yardstick == "–") == (service in {"yardstick", "ours, SQLite, local model"}), cells
        is_compared = service.startswith("ours") and "SQLite" not in service and title in {HIT, MANY_HITS, KNOWN}
        assert (of_naive == "–") == (not is_compared), cells
        assert float(memory) > 0, cells
    assert [cells[0] for cells in workers] == WORKERS
    assert all(float(cell) > 0 for cells in workers for cell in cells[1:])
    verdicts = [cells[-1] for cells in table(output, TARGET_COLUMNS)]
    assert len(verdicts) == 9
    assert set(verdicts) <= {"met goal", "met", "missed"}


@pytest.mark.parametrize(
    ("measured", "more_is_better", "verdict"),
    [
        (1.0, True, "met goal"),
        (0.9, True, "met"),
        (0.7, True, "missed"),
        (0.7, False, "met goal"),
        (0.9, False, "missed"),
    ],
)
def test_a_target_is_met_or_missed(measured: float, more_is_better: bool, verdict: str) -> None:
    limits = (0.8, 1.0) if more_is_better else (0.8, 0.7)
    assert Goal("speed", " x", *limits, measured, more_is_better=more_is_better).verdict == verdict


def test_a_target_without_a_goal_is_met_at_most() -> None:
    assert Goal("speed", " x", 8, None, 9).verdict == "met"


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


def test_bodies_are_sent_in_turn_and_misses_are_counted(wrk: Wrk) -> None:
    received: list[bytes] = []

    async def handle(request: HTTPRequest) -> HTTPResponse:
        received.append(request.body)
        return answering(200, {"cached": False})

    bodies = tuple(b"number %d" % number for number in range(3))
    with running_http_server(handle) as url:
        load = run_load(wrk, url, Request("/", "text/plain", b"", bodies), connections=1, seconds=0.2)
    # wrk asks for one before it begins, to have a look.
    assert received == [bodies[(at + 1) % 3] for at in range(len(received))]
    assert load.missed == load.answers == len(received)
    load.require(Outcome.MISSED)
    with pytest.raises(LoadError, match="should have been cached"):
        load.require(Outcome.CACHED)


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


@contextmanager
def blocking(engine: AsyncEngine) -> Iterator[Engine]:
    """The benchmark's own way to the test's database."""
    reader = create_engine(engine.url.set(drivername=BLOCKING_DRIVERS[engine.url.get_backend_name()]))
    try:
        yield reader
    finally:
        reader.dispose()


async def test_the_books_are_read_as_they_are(engine: AsyncEngine) -> None:
    row = {"image_hash": "a" * 64, "category": "pets", "confidence": 0.9, "created_at": datetime.now(UTC)}
    entry = {**row, "model_used": "test", "hit_count": 3, "last_hit_at": datetime.now(UTC)}
    async with engine.begin() as connection:
        await connection.execute(insert(CachedImage), [entry])
        await connection.execute(
            insert(RequestLog), [{**row, "request_id": str(number), "from_cache": number > 0} for number in range(3)]
        )
    with blocking(engine) as reader:
        assert read_ledger(reader) == Ledger(cached_rows=2, fresh_rows=1, entries=1, hit_count=3)


def test_what_was_lost_or_written_twice_is_noticed() -> None:
    check_ledger(BOOKS, LOAD)
    for name, value in dataclasses.asdict(BOOKS).items():
        for wrong in (value - 1, value + 1):
            with pytest.raises(AccountingError):
                check_ledger(dataclasses.replace(BOOKS, **{name: wrong}), LOAD)


def test_who_writes_after_the_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Ledger(0, 0, 0, 0)
    readings = iter([nothing, dataclasses.replace(BOOKS, cached_rows=6), BOOKS])
    monkeypatch.setattr(ledger_module, "read_ledger", lambda engine: next(readings))
    engine = create_engine("sqlite://")
    with pytest.raises(AccountingError):
        await_ledger(engine, nothing, LOAD, within_seconds=0)
    await_ledger(engine, nothing, LOAD, within_seconds=180)


async def test_the_server_makes_the_photos_that_the_clients_ask_for(engine: AsyncEngine) -> None:
    if engine.url.get_backend_name() == "sqlite":
        pytest.skip("made by MySQL's functions")
    with blocking(engine) as connectable:
        await asyncio.to_thread(fill_cache, connectable, 20)
        with connectable.connect() as connection:
            rows = connection.execute(select(CachedImage.image_hash, CachedImage.model_response)).all()
    assert {row.image_hash for row in rows} == {hash_of_number(number) for number in range(20)}
    assert all(json.loads(row.model_response["content"])["category"] in set(Category) for row in rows)


def test_a_profile_is_counted_by_the_innermost_known_code() -> None:
    look_up = "run (uvicorn/server.py:85);get (app/services/cache/service.py:50)"
    stacks = {
        "run (uvicorn/server.py:85);uv_run (core.c:452);epoll_pwait (libc.so.6)": 500,
        "_worker (concurrent/futures/thread.py:69);PyThread_acquire_lock_timed (libpython3.so);0x1 (libc.so.6)": 50,
        f"{look_up};send (aiomysql/connection.py:7);write (libc.so.6)": 4,
        f"{look_up};get (app/services/cache/service.py:51);PyDict_New (dict.c:9)": 3,
        f"{look_up};expect (sqlalchemy/sql/coercions.py:1)": 2,
        "0x7f06 (libc.so.6)": 1,
    }
    profile = read_profile(f"{stack} {count}" for stack, count in stacks.items())
    assert profile.samples == 10
    assert profile.areas == {SYSTEM: 4, "ours: app/services": 3, "SQLAlchemy, greenlet": 2, REST: 1}
    assert profile.functions[SYSTEM, "write, for aiomysql, PyMySQL"] == 4
    assert profile.inclusive == {"get (app/services/cache/service.py)": 9}
    assert "| all of it | 2000 | 100 % |" in render_profile(profile, 2000)


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
