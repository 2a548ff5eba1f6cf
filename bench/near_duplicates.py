"""`python -m bench.near_duplicates [--photos N]`: what a new photo pays to be compared with many by its looks.

The look-up is the service's own, on its own connections, one after the other: of photos that have a neighbour within 8
bits, and of photos that have none. The many perceptual hashes are random; those of photos are less evenly spread, so
that 1.7 times as many rows pass through a look-up (docs/quality.md). Entries of the cache are there for the photos that
are asked for: a look-up reads no other.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.engine import create_engine as create_service_engine
from app.database.migrate import migrate
from app.photo.perceptual_hash import BITS, perceptual_hash
from app.services.cache.service import CacheService
from app.services.near_duplicates.bands import BANDS, MAX_DISTANCE, bands_of, signed
from app.services.near_duplicates.service import NearDuplicates
from bench.databases import DEFAULT_BUFFER_POOL_BYTES, MysqlServer, insert_entries, mysql_server
from bench.report import render_table
from bench.requests import SIZE, hash_of_number, make_photo
from scripts.mysql_instance import ServerStartError
from tests.support.databases import rollups_for

COLUMNS = ("database", "perceptual hashes", "photo", "median ms", "99 % below ms", "slowest ms")
HASH_COLUMNS = ("JPEG", "median ms", "99 % below ms", "slowest ms")
SIZES = (50_000, 5_000_000)
LOOK_UPS = 300
WARM_UP = 100
CHUNK_ROWS = 10_000
# All pages of five million photos; MySQL's default comes after it.
LARGE_POOL_BYTES = 2 * 1024**3
CHANCE = random.Random(15)


class LookUpError(Exception):
    """A neighbour was missed, or found where there is none."""


def main(arguments: list[str] | None = None) -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.near_duplicates", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=int, action="append", help=f"how many are known; more than once; {SIZES}")
    sizes: Sequence[int] = parser.parse_args(arguments).photos or SIZES
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            url = f"sqlite:///{folder}/{size}.db"
            rows += measure("SQLite", url, create_engine(url), size)
        try:
            with mysql_server() as server:
                for size in sizes:
                    rows += list(measure_on(server, size))
        except ServerStartError as error:
            print(error, file=sys.stderr)
            return 1
    print(render_table(COLUMNS, 3, rows))
    print("\n" + render_table(HASH_COLUMNS, 1, [time_hash()]))
    return 0


def measure_on(server: MysqlServer, size: int) -> Iterator[list[str]]:
    """Measure on MySQL with memory for all pages, and with its default memory."""
    server.set_memory(buffer_pool_bytes=LARGE_POOL_BYTES)
    with server.database(with_tables=True) as database:
        name = server.name
        yield from measure(f"{name}, all in memory", database.url, database.engine, size)
        if server.set_memory(buffer_pool_bytes=DEFAULT_BUFFER_POOL_BYTES):
            engine = service_engine(database.url)
            yield from asyncio.run(time_look_ups(f"{name}, 128 MB (default)", engine, size, known_of(size)))


def measure(name: str, url: str, engine: Engine, size: int) -> list[list[str]]:
    """Fill a database, and measure on it."""
    known = known_of(size)
    service = service_engine(url)
    if service.dialect.name == "sqlite":
        asyncio.run(make_tables(url))
    image_hashes = [hash_of_number(number) for number in range(len(known))]
    insert_entries(engine, image_hashes)
    with engine.begin() as connection:
        fill(connection, known, size)
        if not is_sqlite(connection):
            # MySQL does so itself some seconds after a table has grown by a tenth; until then it scans the index.
            connection.exec_driver_sql("ANALYZE TABLE perceptual_hash").all()
    engine.dispose()
    return asyncio.run(time_look_ups(name, service, size, known))


def known_of(size: int) -> list[int]:
    """The perceptual hashes of the photos that will be asked for: the same in each run."""
    chance = random.Random(size)
    return [chance.getrandbits(BITS) for _ in range(LOOK_UPS + WARM_UP)]


async def make_tables(url: str) -> None:
    settings = settings_of(url)
    engine = create_service_engine(settings)
    await migrate(engine, settings)
    await engine.dispose()


def service_engine(url: str) -> AsyncEngine:
    return create_service_engine(settings_of(url))


def settings_of(url: str) -> Settings:
    return Settings(database=DatabaseSettings.model_validate({"url": url.replace("mysql+aiomysql", "mysql")}))


def fill(connection: Connection, known: Sequence[int], size: int) -> None:
    """Write the hashes of `known`, whose entries have the ids from 1 on, and random ones up to `size`."""
    switch_off = "PRAGMA foreign_keys = OFF" if is_sqlite(connection) else "SET foreign_key_checks = 0"
    connection.execute(text(switch_off))
    columns = ", ".join(["entry_id", "hash", *(f"band_{band}" for band in range(1, BANDS + 1))])
    for start in range(0, size, CHUNK_ROWS):
        rows = []
        for number in range(start, min(start + CHUNK_ROWS, size)):
            value = known[number] if number < len(known) else CHANCE.getrandbits(BITS)
            rows.append(f"({number + 1},{signed(value)},{','.join(map(str, bands_of(value)))})")
        connection.exec_driver_sql(f"INSERT INTO perceptual_hash ({columns}) VALUES {','.join(rows)}")  # noqa: S608 - ours


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


async def time_look_ups(name: str, engine: AsyncEngine, size: int, known: Sequence[int]) -> list[list[str]]:
    """Look for photos that have a neighbour, and in turn for some that have none."""
    rollups = rollups_for(engine)
    near = NearDuplicates(
        engine, cache=CacheService(engine, accepts_provisional=False, rollups=rollups), rollups=rollups
    )
    times: dict[str, list[float]] = {"similar": [], "new": []}
    for number, value in enumerate(known):
        for kind, wanted in (("similar", changed(value)), ("new", CHANCE.getrandbits(BITS))):
            began = time.perf_counter()
            found = await near.find(wanted)
            if number >= WARM_UP:
                times[kind].append((time.perf_counter() - began) * 1000)
            if (found is not None and found.entry_id == number + 1) != (kind == "similar"):
                raise LookUpError(f"{name}: the look-up of photo {number}, which is {kind}, found {found}")
    await engine.dispose()
    return [[name, f"{size:,}".replace(",", " "), kind, *figures(each)] for kind, each in times.items()]


def time_hash() -> list[str]:
    """Compute the perceptual hash of the photo that the other commands upload."""
    photo = make_photo()
    times = []
    for _ in range(LOOK_UPS):
        began = time.perf_counter()
        perceptual_hash(photo)
        times.append((time.perf_counter() - began) * 1000)
    width, height = SIZE
    return [f"{width} × {height}, {len(photo) // 1000} KB", *figures(times)]


def changed(value: int) -> int:
    """As far away as a neighbour may be."""
    for place in CHANCE.sample(range(BITS), MAX_DISTANCE):
        value ^= 1 << place
    return value


def figures(milliseconds: Sequence[float]) -> list[str]:
    """Median, 99th percentile, and the slowest."""
    cuts = statistics.quantiles(milliseconds, n=100)
    return [f"{value:.1f}" for value in (cuts[49], cuts[98], max(milliseconds))]


if __name__ == "__main__":
    sys.exit(main())
