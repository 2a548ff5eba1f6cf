"""`python -m bench.statistics [--rows N]`: how long the statistics take on a long log, while requests are being logged.

The log and its sums are made on the server, the visitors by the count that a new STATS_TIMEZONE starts; then a service
on them is asked over HTTP. A figure that is not what the log says ends the run with status 1.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, Table, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import day_in_utc, utc_now
from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.migrate import migrate
from app.database.tables.request_log import RequestLog
from app.services.request_log.backfill import recount_visitors
from app.services.request_log.rollups import SHARDS
from bench.command import run_command
from bench.databases import mysql_server
from bench.ledger import AccountingError
from bench.load import ANSWER_TIMEOUT_SECONDS, PLACEHOLDER, Load, LoadError, Request, run_load
from bench.services import Service, ServiceCommand, start_service
from bench.wrk import Wrk

DAYS = 90
USERS = 200_000
ADDRESSES = 50_000
IMAGES = 100_000
ZONE = ZoneInfo("Asia/Shanghai")
CHUNK_ROWS = 1_000_000
WRITER_CONNECTIONS = 4
# What a server for a log like this has at least; the tests' own begins with 64 MB.
BUFFER_POOL_BYTES = 1 << 30
SORT_BUFFER_BYTES = 1 << 29
PAUSE_SECONDS = 0.01
PATHS = (
    "/stats/today",
    "/stats/today?date={past}",
    "/stats/timeseries?metric=requests&bucket=hour",
    "/stats/timeseries?metric=latency&bucket=hour&from={month_ago}",
    "/stats/timeseries?metric=users&bucket=day&from={year_ago}",
    "/stats/cache-efficiency",
    "/stats/category-distribution",
    "/stats/category-distribution?date={past}",
    "/stats/users/top?limit=20",
    "/stats/users/top?limit=1000",
    "/stats/top-images?limit=10",
    "/stats/top-images?limit=1000",
)
# The kind of CPU time in /proc/stat that a virtual machine wanted and did not get.
STEAL = 7
COLUMNS = ("request", "requests", "p50 ms", "p99 ms", "slowest ms")

# Rows number :first and on, in the order of their time, spread evenly over the days up to now. A few users and images
# are asked for far more often than the others; every tenth request has no user.
_FILL_LOG = """
INSERT INTO request_log (request_id, user_id, ip_address, image_hash, image_size, category, confidence, from_cache,
    processing_time_ms, created_at, model)
WITH RECURSIVE digits AS (SELECT 0 AS digit UNION ALL SELECT digit + 1 FROM digits WHERE digit < 999)
SELECT CONCAT('req_', 1700000000 + number, '_', LPAD(HEX(number), 12, '0')),
    IF(RAND() < 0.1, NULL, CONCAT('device-', FLOOR(POW(RAND(), 2) * :users))),
    CONCAT('10.0.', FLOOR(RAND() * :addresses / 250), '.', FLOOR(RAND() * 250)),
    SHA2(FLOOR(POW(RAND(), 3) * :images), 256), 400000,
    ELT(1 + FLOOR(RAND() * 8), 'social_activities', 'pets', 'single_person', 'foods', 'travel_scenery', 'screenshot',
        'idcard', 'other'),
    ROUND(0.5 + RAND() / 2, 4), RAND() < 0.4, FLOOR(RAND() * 3000),
    :start + INTERVAL FLOOR(number * :seconds / :rows) SECOND, 'bench'
FROM (
    SELECT :first + high.digit * 1000 + low.digit AS number FROM digits AS high STRAIGHT_JOIN digits AS low
) AS numbers
WHERE number < :last
"""
_FILL_CACHE = """
INSERT INTO image_classification_cache (image_hash, category, confidence, description, model_used, hit_count,
    created_at, last_hit_at)
WITH RECURSIVE digits AS (SELECT 0 AS digit UNION ALL SELECT digit + 1 FROM digits WHERE digit < 999)
SELECT SHA2(number, 256), 'foods', 0.9, 'a photo', 'bench', 1 + FLOOR(POW(RAND(), 8) * 5000), :start, :start
FROM (SELECT high.digit * 1000 + low.digit AS number FROM digits AS high STRAIGHT_JOIN digits AS low) AS numbers
WHERE number < :images
"""
# The sums of the log and the cache as the service leaves them, in one shard; its own count makes the visitors.
_FILL_SUMS = (
    """
INSERT INTO stats_period (period_start, category, shard, requests, hits, processing_time_ms, confidence_sum)
SELECT created_at - INTERVAL (MOD(MINUTE(created_at), 15) * 60 + SECOND(created_at)) SECOND, category, 0, COUNT(*),
    SUM(from_cache), SUM(processing_time_ms), SUM(ROUND(confidence * 10000)) FROM request_log GROUP BY 1, 2
""",
    """
INSERT INTO stats_user (user_id, requests, hits, first_request_at, last_request_at)
SELECT user_id, COUNT(*), SUM(from_cache), MIN(created_at), MAX(created_at) FROM request_log
WHERE user_id IS NOT NULL GROUP BY user_id
""",
    """
INSERT INTO stats_cache (shard, images, hits) SELECT 0, COUNT(*), SUM(hit_count) FROM image_classification_cache
""",
)
# Empty sums in the other shards: as many rows to read as many processes leave, and the same figures.
_FILL_SHARDS = """
INSERT INTO stats_period (period_start, category, shard, requests, hits, processing_time_ms, confidence_sum)
WITH RECURSIVE shards AS (SELECT 0 AS shard UNION ALL SELECT shard + 1 FROM shards WHERE shard < :last)
SELECT period_start, category, shards.shard, 0, 0, 0, 0 FROM stats_period AS built JOIN shards
WHERE shards.shard <> built.shard
"""
_COUNT_CACHE = "SELECT COUNT(*), SUM(hit_count), MAX(hit_count) FROM image_classification_cache"
_COUNT_DAY = """
SELECT COUNT(*), COUNT(DISTINCT user_id), COUNT(DISTINCT ip_address) FROM request_log
WHERE created_at >= :start AND created_at < :end
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status: 0 done, 1 not possible or a figure is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.statistics", description="Measure the statistics.")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the log (default: ten million)")
    parser.add_argument("--seconds", type=float, default=60, help="how long to ask and to write (default: 60)")
    options = parser.parse_args(arguments)
    return run_command(partial(run, options.rows, options.seconds))


def run(rows: int, seconds: float, wrk: Wrk) -> None:
    """Fill a database, measure, and print.

    Raises:
        LoadError, AccountingError: an answer was wrong.
        NoServerError, ServerStartError, ProcessFailedError, NotDurableError: it cannot be measured.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        mysql_server() as server,
        server.database() as database,
    ):
        began = time.perf_counter()
        asyncio.run(_prepare(database.url, migrate))
        server.set_memory(buffer_pool_bytes=BUFFER_POOL_BYTES)
        fill(database.engine, rows)
        filled = time.perf_counter()
        asyncio.run(_prepare(database.url, lambda engine, settings: recount_visitors(engine, ZONE)))
        counted = time.perf_counter()
        with database.engine.connect() as connection:
            connection.execute(text(_FILL_SHARDS), {"last": SHARDS - 1})
            connection.commit()
            connection.execute(text("ANALYZE TABLE stats_period"))
        print(
            f"{server.name}; {rows:,} log rows of {DAYS} days, made with their sums in {filled - began:.0f} s; "
            f"visitors counted in {counted - filled:.0f} s",
            flush=True,
        )
        environment = {
            "DATA_DIR": folder,
            "DATABASE_URL": database.url,
            "STATS_TIMEZONE": ZONE.key,
            "LOG_RETENTION_DAYS": "0",
            # The model is not asked: all that is written here are hits.
            "LLM_PROVIDER": "custom",
            "LLM_BASE_URL": "http://127.0.0.1:9/v1",
            "LLM_MODEL": "none",
        }
        today = datetime.now(ZONE).date()
        past, month_ago, year_ago = (today - timedelta(days=days) for days in (DAYS // 2, 30, 365))
        paths = [path.format(past=past, month_ago=month_ago, year_ago=year_ago) for path in PATHS]
        with start_service(ServiceCommand("statistics", "app.main:app", Path(folder), environment)) as service:
            before = _cpu_times()
            load, times = _measure(service, wrk, paths, seconds)
            spent = [after - earlier for after, earlier in zip(_cpu_times(), before, strict=True)]
            counting = check_figures(database.engine, partial(_get, service), past)
    print(
        f"{load.per_second:.0f} hits/s were written meanwhile, each of a user not seen before; "
        f"{spent[STEAL] / sum(spent):.0%} of the CPU was taken by other virtual machines\n"
    )
    print(_table(times))
    print(f"\nCounting one day in the log itself takes {counting:.2f} s and gives the same figures.")


def fill(engine: Engine, rows: int) -> None:
    """Put `rows` rows into the log, fill the cache, and sum both up."""
    start = utc_now() - timedelta(days=DAYS)
    sizes = {"users": USERS, "addresses": ADDRESSES, "images": min(IMAGES, rows), "rows": rows, "seconds": DAYS * 86400}
    indexes = [
        (index.name, index.unique, [c.name for c in index.columns])
        for index in cast("Table", RequestLog.__table__).indexes
    ]
    with engine.connect() as connection:
        # Indexes that are built at the end are sorted, not filled row by row.
        connection.execute(text("ALTER TABLE request_log " + ", ".join(f"DROP KEY {name}" for name, *_ in indexes)))
        for first in range(0, rows, CHUNK_ROWS):
            last = min(first + CHUNK_ROWS, rows)
            connection.execute(
                text(_FILL_LOG), {**sizes, "start": start.replace(tzinfo=None), "first": first, "last": last}
            )
            connection.commit()
            print(f"bench: {last:,} of {rows:,} rows", file=sys.stderr)
        if connection.execute(text("SHOW VARIABLES LIKE 'innodb_ddl_buffer_size'")).first():
            # MySQL sorts an index in 1 MB by default, and so in many passes; MariaDB has no such variable.
            connection.execute(text(f"SET SESSION innodb_ddl_buffer_size = {SORT_BUFFER_BYTES}"))
        keys = [f"ADD {'UNIQUE ' * unique}KEY {name} ({', '.join(columns)})" for name, unique, columns in indexes]
        connection.execute(text("ALTER TABLE request_log " + ", ".join(keys)))
        connection.execute(text(_FILL_CACHE), {**sizes, "start": start.replace(tzinfo=None)})
        connection.commit()
        for statement in _FILL_SUMS:
            connection.execute(text(statement))
        connection.commit()
        connection.execute(text("ANALYZE TABLE request_log, image_classification_cache"))


def check_figures(engine: Engine, ask: Callable[[str], Any], past: date) -> float:
    """Compare the figures that `ask` returns for a path with the log and the cache.

    Returns the seconds that counting a day in the log took.

    Raises:
        AccountingError: they are not the same.
    """
    counting = 0.0
    for day in (past, datetime.now(ZONE).date()):
        start, end = day_in_utc(day, ZONE)
        began = time.perf_counter()
        with engine.connect() as connection:
            bounds = {"start": start.replace(tzinfo=None), "end": end.replace(tzinfo=None)}
            counted = tuple(connection.execute(text(_COUNT_DAY), bounds).one())
        counting = counting or time.perf_counter() - began
        figures = ask(f"/stats/today?date={day}")
        told = (figures["total_requests"], figures["unique_users"], figures["unique_ips"])
        if told != counted:
            raise AccountingError(f"{day}: the statistics say {told}, the log says {counted}")
        series = ask(f"/stats/timeseries?metric=requests&bucket=15min&to={day + timedelta(days=1)}&from={day}")
        drawn = sum(point["value"] for point in series["points"])
        if drawn != counted[0]:
            raise AccountingError(f"{day}: the points of a series sum up to {drawn}, the log says {counted[0]}")
    with engine.connect() as connection:
        cached = tuple(map(int, connection.execute(text(_COUNT_CACHE)).one()))
    figures = ask("/stats/cache-efficiency")
    told = (figures["total_cached_images"], figures["total_hits"], figures["max_hits"])
    if told != cached:
        raise AccountingError(f"the cache: the statistics say {told}, its table says {cached}")
    return counting


def _measure(service: Service, wrk: Wrk, paths: list[str], seconds: float) -> tuple[Load, dict[str, list[float]]]:
    """Ask for the figures in turn while hits are written; return what was written, and milliseconds by path."""
    for path in paths:
        _get(service, path)
    known = hashlib.sha256(b"0").hexdigest()
    body = json.dumps({"image_hash": known, "user_id": PLACEHOLDER.decode()}).encode()
    times: dict[str, list[float]] = {path: [] for path in paths}
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(
            run_load,
            wrk,
            service.url,
            Request("/api/v1/classify/check-cache", "application/json", body),
            connections=WRITER_CONNECTIONS,
            seconds=seconds,
        )
        while not writing.done():
            for path in paths:
                began = time.perf_counter()
                _get(service, path)
                times[path].append((time.perf_counter() - began) * 1000)
                time.sleep(PAUSE_SECONDS)
        return writing.result(), times


def _cpu_times() -> list[int]:
    """Return what all cores have spent since the boot, by kind (proc_stat(5)), without the guests that user holds."""
    return [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def _get(service: Service, path: str) -> Any:
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=ANSWER_TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"/api/v1{path}")
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise LoadError(f"{path} was answered with {response.status}: {body[:300].decode('utf-8', 'replace')}")
    return json.loads(body)["data"]


def _table(times: dict[str, list[float]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    for path, milliseconds in times.items():
        ranked = sorted(milliseconds)
        middle, late = (ranked[min(int(len(ranked) * part), len(ranked) - 1)] for part in (0.5, 0.99))
        lines.append(f"| `{path}` | {len(ranked)} | {middle:.1f} | {late:.1f} | {ranked[-1]:.1f} |")
    return "\n".join(lines)


async def _prepare(url: str, work: Callable[[AsyncEngine, Settings], Awaitable[None]]) -> None:
    settings = Settings(database=DatabaseSettings.model_validate({"url": url}))
    engine = create_engine(settings)
    try:
        await work(engine, settings)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
