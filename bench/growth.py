"""`python -m bench.growth`: what a large cache costs, and whether new photos make the worker grow.

Look-ups that hit, over 32 connections, of two services on one MySQL server, one with few cached images and one with
many; in turn, so that a slow minute falls on both. And the memory of a worker while it is sent new photos.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, text

from app.categories import Category
from bench.command import add_setting_option, run_command
from bench.databases import DEFAULT_BUFFER_POOL_BYTES, DEFAULT_REDO_LOG_BYTES, MysqlServer, mysql_server
from bench.ledger import Ledger, await_ledger, read_ledger
from bench.load import Load, Outcome
from bench.measure import Measurement, Sample, Target, measure, start_target
from bench.report import render_table, three_figures
from bench.requests import check_many, hash_of_number, make_photo, upload_new
from bench.services import ServiceCommand, our_service, read_usage, start_service
from bench.wrk import Wrk

GIBIBYTE = 1024**3
CONNECTIONS = 32
UPLOAD_CONNECTIONS = 8
UPLOAD_LOAD_SECONDS = 1.0
HOT_PHOTOS = 1_500
USERS = 1_000
# More than a load sends, so that no random photo comes twice in one.
REQUESTS_A_LOAD = 60_000
# Rows of one INSERT: the product of four tables of ten.
CHUNK_ROWS = 10_000
# Filling with the memory of a small server would take hours: the hashes are in no order.
FILL_BUFFER_POOL_BYTES = 3 * GIBIBYTE
FILL_REDO_LOG_BYTES = 2 * GIBIBYTE
# The default of MySQL, what a small server has, and enough for all pages of the large cache.
BUFFER_POOLS = (
    ("128 MB (default)", DEFAULT_BUFFER_POOL_BYTES),
    ("1 GB", GIBIBYTE),
    ("8 GB, all in memory", 8 * GIBIBYTE),
)
HOT, RANDOM = "1 500 photos over and over", "any photo, at random"
GROWTH_COLUMNS = (
    "buffer pool",
    "look-ups of",
    "cached images",
    "requests/s",
    "spread",
    "p50 ms",
    "p99 ms",
    "CPU ms",
    "many of few",
)
MEMORY_COLUMNS = ("new photos so far", "RSS MB", "peak")

_DIGITS = " UNION ALL ".join(f"SELECT {digit} AS digit" for digit in range(10))
_CATEGORIES = ", ".join(f"'{category}'" for category in Category)
_DESCRIPTION = "阳光下的海边小镇，白色的房子沿着山坡排列，远处是蓝色的大海和几艘帆船，天空中有几朵云，照片"
# A row of what a vision model answers: some fifty characters of Chinese, and its JSON of half a kilobyte.
_FILL = f"""
INSERT INTO image_classification_cache
  (image_hash, category, confidence, description, model_used, model_response, hit_count, created_at, last_hit_at)
SELECT SHA2(number, 256), category, 0.5 + number % 5000 / 10000, description, 'gpt-4.1-mini',
  JSON_OBJECT(
    'content', CONCAT('{{"category": "', category, '", "confidence": 0.95, "description": "', description, '"}}'),
    'finish_reason', 'stop', 'id', CONCAT('chatcmpl-', LEFT(SHA2(number, 224), 29)),
    'usage', JSON_OBJECT('prompt_tokens', 1100 + number % 300, 'completion_tokens', 60 + number % 30)
  ),
  1, UTC_TIMESTAMP() - INTERVAL (:images - number) SECOND, UTC_TIMESTAMP() - INTERVAL (number % 86400) SECOND
FROM (
  SELECT number, ELT(1 + number % {len(Category)}, {_CATEGORIES}) AS category,
    CONCAT(:description, number) AS description
  FROM (
    SELECT :first + a.digit + 10 * b.digit + 100 * c.digit + 1000 * d.digit AS number
    FROM ({_DIGITS}) AS a, ({_DIGITS}) AS b, ({_DIGITS}) AS c, ({_DIGITS}) AS d
  ) AS numbers
  WHERE number < :images
) AS photos
"""  # noqa: S608 - the pieces are our own constants


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes: images of the two caches, rounds and seconds of each look-up line, new photos to upload.

    `settings` are variables of our service.
    """

    few: int
    many: int
    rounds: int
    seconds: float
    uploads: Sequence[int]
    settings: Mapping[str, str]


@dataclass(slots=True)
class Cache:
    """A service with so many cached images, and the sum of what it has answered."""

    images: int
    target: Target
    books: Ledger
    answers: int = 0


@dataclass(slots=True)
class Line:
    """Look-ups of one kind on one cache with one size of memory."""

    memory: str
    kind: str
    cache: Cache
    samples: list[Sample] = field(default_factory=list)

    def load(self, wrk: Wrk, seconds: float, chance: random.Random) -> Sample:
        """Measure once, with photos drawn anew."""
        images = range(self.cache.images)
        if self.kind == HOT:
            few = random.Random(0).sample(images, min(HOT_PHOTOS, len(images)))
            numbers = chance.choices(few, k=REQUESTS_A_LOAD)
        else:
            numbers = chance.sample(images, min(REQUESTS_A_LOAD, len(images)))
        request = check_many([hash_of_number(number) for number in numbers], users=USERS, chance=chance)
        sample = measure(Measurement(self.kind, self.cache.target, request, CONNECTIONS), wrk, seconds)
        self.cache.answers += sample.answers
        return sample


def main(arguments: list[str] | None = None) -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description="Measure with many cached images.")
    parser.add_argument("--images", type=int, default=5_000_000, help="of the large cache (default 5000000)")
    parser.add_argument("--few", type=int, default=50_000, help="of the small cache (default 50000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each line (default 3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load (default 4)")
    parser.add_argument("--uploads", type=int, default=10_000, help="new photos; 0 leaves that part out")
    add_setting_option(parser)
    chosen = parser.parse_args(arguments)
    # 1 000, 5 000 and 10 000 by default.
    uploads = [count for count in (chosen.uploads // 10, chosen.uploads // 2, chosen.uploads) if count]
    plan = Plan(chosen.few, chosen.images, chosen.rounds, chosen.seconds, uploads, dict(chosen.settings))
    return run_command(partial(run, plan))


def run(plan: Plan, wrk: Wrk) -> None:
    """Fill, measure, print.

    Raises:
        LoadError, AccountingError: an answer was wrong, or the database does not hold what was answered.
        NoServerError, ServerStartError, ProcessFailedError, NotDurableError: it cannot be measured.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        mysql = stack.enter_context(mysql_server())
        model = stack.enter_context(start_service(ServiceCommand("model", "bench.instant_model:app", folder)))
        print(render_growth(_measure_growth(plan, wrk, mysql, model.url, folder)), flush=True)
        if plan.uploads:
            mysql.set_memory(buffer_pool_bytes=DEFAULT_BUFFER_POOL_BYTES)
            rows = _measure_memory(plan, wrk, mysql, model.url, folder)
            print(f"\n{render_table(MEMORY_COLUMNS, 0, rows)}")


def fill_cache(engine: Engine, images: int) -> None:
    """Have the server make so many rows of the cache; the photo with number n has the hash `hash_of_number(n)`."""
    with engine.connect() as connection:
        # No two numbers have the same hash: an index page that is not in memory need not be read for that.
        connection.execute(text("SET SESSION unique_checks = 0"))
        for first in range(0, images, CHUNK_ROWS):
            parameters = {"first": first, "images": images, "description": _DESCRIPTION}
            connection.execute(text(_FILL), parameters)
            connection.commit()
        connection.execute(text("ANALYZE TABLE image_classification_cache"))


def render_growth(lines: Sequence[Line]) -> str:
    """Return the table; the ratio is the median over the rounds, large cache to small in the same round."""
    rows = []
    for few, many in zip(lines[::2], lines[1::2], strict=True):
        ratios = [large.per_second / small.per_second for small, large in zip(few.samples, many.samples, strict=True)]
        for line, ratio in ((few, "–"), (many, f"{statistics.median(ratios):.2f}")):
            rates = [sample.per_second for sample in line.samples]
            rate = statistics.median(rates)
            figures = (
                statistics.median(values)
                for values in zip(*((each.p50_ms, each.p99_ms, each.cpu_ms) for each in line.samples), strict=True)
            )
            rows.append(
                [
                    *(line.memory, line.kind, str(line.cache.images), three_figures(rate)),
                    f"{(max(rates) - min(rates)) / rate * 100:.0f} %",
                    *(three_figures(figure) for figure in figures),
                    ratio,
                ]
            )
    return render_table(GROWTH_COLUMNS, 2, rows)


def _measure_growth(plan: Plan, wrk: Wrk, mysql: MysqlServer, model_url: str, folder: Path) -> list[Line]:
    chance = random.Random(1)
    with ExitStack() as stack:
        mysql.set_memory(buffer_pool_bytes=FILL_BUFFER_POOL_BYTES, redo_log_bytes=FILL_REDO_LOG_BYTES)
        caches = []
        for images in (plan.few, plan.many):
            database = stack.enter_context(mysql.database())
            command = our_service(f"ours {images}", database.url, folder, model_url=model_url, **plan.settings)
            # Started once for its tables, and again when they are full.
            with start_service(command):
                pass
            began = time.monotonic()
            fill_cache(database.engine, images)
            print(f"{images} images made in {time.monotonic() - began:.0f} s", file=sys.stderr)
            # Its books are read once and not around every load: that reads all rows, and so spoils the memory.
            target = stack.enter_context(start_target(command, None))
            caches.append((Cache(images, target, read_ledger(database.engine)), database.engine))
        lines = []
        for memory, size in BUFFER_POOLS:
            is_set = mysql.set_memory(buffer_pool_bytes=size, redo_log_bytes=DEFAULT_REDO_LOG_BYTES)
            if size > GIBIBYTE:
                for _, engine in caches:
                    _read_everything(engine)
            for kind in (HOT, RANDOM):
                pair = [Line(memory if is_set else "as it is", kind, cache) for cache, _ in caches]
                for line in pair:
                    line.load(wrk, plan.seconds, chance)
                for _ in range(plan.rounds):
                    for line in pair:
                        line.samples.append(line.load(wrk, plan.seconds, chance))
                lines += pair
            if not is_set:
                break
        for cache, engine in caches:
            load = Load(cached=cache.answers, fresh=0, missed=0, elapsed_seconds=1, p50_ms=0, p99_ms=0)
            await_ledger(engine, cache.books, load, within_seconds=30 if plan.settings else 0)
    return lines


def _read_everything(engine: Engine) -> None:
    """Have the server read all pages that a hit may need: the table, and the indexes that are looked up or changed."""
    with engine.connect() as connection:
        for index, column in (
            ("PRIMARY", "description"),
            ("uk_image_hash", "image_hash"),
            ("idx_hit_count", "hit_count"),
        ):
            query = f"SELECT COUNT({column}) FROM image_classification_cache FORCE INDEX ({index})"  # noqa: S608 - ours
            connection.execute(text(query))


def _measure_memory(plan: Plan, wrk: Wrk, mysql: MysqlServer, model_url: str, folder: Path) -> list[list[str]]:
    """Upload new photos; return a row after each count of the plan, and one before the first."""
    with ExitStack() as stack:
        database = stack.enter_context(mysql.database())
        command = our_service("ours, new photos", database.url, folder, model_url=model_url, **plan.settings)
        target = stack.enter_context(start_target(command, database.engine, written_later=bool(plan.settings)))
        line = Measurement("upload, new photo", target, upload_new(make_photo()), UPLOAD_CONNECTIONS, Outcome.FRESH)
        counts, rows = list(plan.uploads), [_memory_row(0, target)]
        sent = 0
        while counts:
            sent += measure(line, wrk, UPLOAD_LOAD_SECONDS).answers
            if sent >= counts[0]:
                rows.append(_memory_row(sent, target))
                counts = [count for count in counts if count > sent]
    return rows


def _memory_row(sent: int, target: Target) -> list[str]:
    usage = read_usage(target.service.pid)
    return [str(sent), f"{usage.resident_megabytes:.0f}", f"{usage.peak_megabytes:.0f}"]


if __name__ == "__main__":
    sys.exit(main())
