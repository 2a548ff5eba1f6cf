"""Redis holds copies and nothing else: it may lie, vanish, forget and remember too much, and no wrong answer comes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.clock import utc_now
from app.language.accept import Language
from app.services.cache import redis as redis_tier
from app.services.cache import tiers
from app.services.cache.entry import CachedResult
from app.services.cache.invalidation import CacheInvalidator
from app.services.cache.redis import LIFETIME, Copy, RedisCache, read_copy, write_copy
from app.services.cache.service import CacheService
from app.services.cache.tiers import CacheTiers
from app.services.redis import RedisClient
from tests.servers.processes import free_port
from tests.servers.redis import running_redis
from tests.support.cache_processes import save
from tests.support.corrections import correct, remove
from tests.support.databases import rollups_for

IMAGE = "a" * 64
LONG_TRUST_SECONDS = 600.0
OTHER_IMAGE = "b" * 64
ENTRY = CachedResult(Category.PETS, 0.9876, "一只猫 🐈 \\ \"'\n", "gpt-6-luna")
# A busy machine may take longer than the service would wait.
PATIENCE_SECONDS = 10.0
SECRET = "hunter2-hunter2"
# Of the database, in tests that need none.
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_tier, "RETRY_SECONDS", 0.0)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines that are logged during the test."""
    lines: list[str] = []
    number = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(number)


class Process:
    """One process of the service, whose memory is off so that Redis shows."""

    def __init__(self, engine: AsyncEngine, url: str, *, local: bool = False, space: str = "test") -> None:
        self.client = RedisClient(url, key_space=space, timeout_seconds=PATIENCE_SECONDS)
        self.redis = RedisCache(self.client)
        self.copies = CacheTiers(redis=self.redis, trust_seconds=LONG_TRUST_SECONDS)
        self.watch = CacheInvalidator(engine, self.copies)
        self.cache = CacheService(engine, accepts_provisional=local, rollups=rollups_for(engine), copies=self.copies)


@pytest.fixture
async def start(engine: AsyncEngine) -> AsyncIterator[Callable[..., Process]]:
    processes: list[Process] = []

    def make(url: str, **options: object) -> Process:
        processes.append(Process(engine, url, **options))  # type: ignore[arg-type]
        return processes[-1]

    yield make
    for process in processes:
        await process.client.close()


def result(category: Category) -> ModelResult:
    return ModelResult(category, 0.9, f"a photo of {category}", {})


# ----- entries


@pytest.mark.parametrize(
    "entry",
    [
        ENTRY,
        CachedResult(Category.OTHER, 0.0, None, "m"),
        CachedResult(Category.IDCARD, 1.0, "", "manual"),
        replace(ENTRY, language=Language.CHINESE, translations={Language.ENGLISH: "A cat 🐈"}),
        replace(ENTRY, language=Language.CHINESE, translations={Language.ENGLISH: None}),
    ],
)
def test_a_copy_survives(entry: CachedResult) -> None:
    copy = Copy(entry, NOW)
    assert read_copy(write_copy(copy)) == copy


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b'{"a": 1, "b": 2, "c": 3, "d": 4}',
        b'["pets", 0.5, 1795219200]',
        b'[3, "pets", 0.5, "m", 0, null, null, null]',
        b'[3, "pets", 0.5, null, "m", 0, null, null, null]',
        b'[3, "pets", 0.5, null, "m", 0, null, null, "1795219200"]',
        b'[3, "pets", 0.5, null, "m", 0, null, null, 1e300]',
        b'[3, "pets", 0.5, null, "m", 0, null, null, 100000000000000]',
        b'[3, "pets", 0.5, null, "m", 0, null, null, NaN]',
        b'[3, "pets", 0.5, null, null, "m", 0, null, null, 1795219200]',
        b'[3, "cats", 0.5, null, "m", 0, null, null, 1795219200]',
        b'[3, "PETS", 0.5, null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", 0.5, null, "m", 0, "fr", null, 1795219200]',
        b'[3, "pets", 0.5, null, "m", 0, null, ["en"], 1795219200]',
        b'[3, "pets", 0.5, null, "m", 0, null, {"fr": "un chat"}, 1795219200]',
        b'[3, "pets", 0.5, null, "m", 0, null, {"en": 7}, 1795219200]',
        rb'[3, "pets", 0.5, null, "m", 0, null, {"en": "\ud800"}, 1795219200]',
        b'[3, ["pets"], 0.5, null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", 1.01, null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", -0.5, null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", NaN, null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", Infinity, null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", true, null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", "0.5", null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", 0.5, 7, "m", 0, null, null, 1795219200]',
        b'[3, "pets", 0.5, ["x"], "m", 0, null, null, 1795219200]',
        rb'[3, "pets", 0.5, "\ud800", "m", 0, null, null, 1795219200]',
        b'[3, "pets", 0.5, "\xff", "m", 0, null, null, 1795219200]',
        b'[3, "pets", 1' + b"0" * 6000 + b', null, "m", 0, null, null, 1795219200]',
        b'[3, "pets", 0.5, "' + b"x" * 70_000 + b'", "m", 0, null, null, 1795219200]',
        b'["foods", 0.9, null, 10000, null, null, 1795219200]',
        b'[1, "foods", 0.9, null, "m", 10000, null, null, 1795219200]',
        b'[3, "foods", 0.9, null, 7, 10000, null, null, 1795219200]',
        b'[3, "foods", 0.9, null, "m", null, null, 1795219200]',
        rb'[3, "foods", 0.9, null, "\ud800", 10000, null, null, 1795219200]',
        b"[" * 60_000,
        "not bytes",
        None,
    ],
)
def test_anything_else_counts_as_absent(value: object) -> None:
    assert read_copy(value) is None


# ----- a real server


def in_redis(client: redis.Redis, key: str) -> CachedResult | None:
    """The entry that Redis has a copy of."""
    value = client.get(key)
    if value is None:
        return None
    copy = read_copy(value)
    assert copy is not None
    assert abs(copy.as_of - utc_now()) < LIFETIME
    return copy.entry


async def test_entries_expire_and_installations_do_not_meet(redis_url: str) -> None:
    clients = [RedisClient(redis_url, key_space=space, timeout_seconds=PATIENCE_SECONDS) for space in ("one", "two")]
    one, other = map(RedisCache, clients)
    for each in (one, other):
        await each.connect()
    await one.set_many({IMAGE: ENTRY, OTHER_IMAGE: ENTRY}, as_of=NOW)
    assert await one.get_many([IMAGE, "c" * 64]) == {IMAGE: Copy(ENTRY, NOW)}
    assert await other.get_many([IMAGE]) == {}
    with redis.Redis.from_url(redis_url) as client:
        assert len(client.keys("ic1:*")) == 2
        assert 0 < client.ttl(one.key(IMAGE)) <= LIFETIME.total_seconds() == 45
    for client in clients:
        await client.close()


async def test_redis_stands_between(engine: AsyncEngine, redis_url: str, start: Callable[..., Process]) -> None:
    one, other = start(redis_url), start(redis_url)
    for process in (one, other):
        await process.watch.look()
    saved = await save(one.cache, IMAGE, result(Category.FOODS), model="m")
    with redis.Redis.from_url(redis_url) as client:
        key = one.redis.key(IMAGE)
        assert in_redis(client, key) == saved
        # To be told from the database's, it says something else.
        client.set(key, write_copy(Copy(ENTRY, utc_now())))
        assert await other.cache.get(IMAGE) == ENTRY
        assert await other.cache.get_many([IMAGE, OTHER_IMAGE]) == {IMAGE: ENTRY}
        client.delete(key)
        assert await other.cache.get(IMAGE) == saved
        # Filled on the way back.
        assert in_redis(client, key) == saved


async def test_poisoned_values_are_misses_and_overwritten(
    engine: AsyncEngine, redis_url: str, start: Callable[..., Process]
) -> None:
    process = start(redis_url)
    await process.watch.look()
    saved = await save(process.cache, IMAGE, result(Category.FOODS), model="m")
    with redis.Redis.from_url(redis_url) as client:
        key = process.redis.key(IMAGE)
        for poison in (b"junk", json.dumps(["foods", 7, None]).encode(), b"\xff\xfe"):
            client.set(key, poison)
            assert await process.cache.get(IMAGE) == saved
            assert in_redis(client, key) == saved
        client.delete(key)
        client.lpush(key, "another type")
        assert await process.cache.get(IMAGE) == saved
        assert in_redis(client, key) == saved


async def test_provisional_entries_do_not_go_there(
    engine: AsyncEngine, redis_url: str, start: Callable[..., Process]
) -> None:
    demo = start(redis_url, local=True)
    await demo.watch.look()
    saved = await save(demo.cache, IMAGE, result(Category.FOODS), model="local/efficientnet-lite2/efda6a2d")
    assert await demo.cache.get(IMAGE) == saved
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("*") == []


async def test_an_old_copy_that_a_slow_process_writes_is_no_answer(
    engine: AsyncEngine, redis_url: str, start: Callable[..., Process]
) -> None:
    one, slow = start(redis_url), start(redis_url)
    for process in (one, slow):
        await process.watch.look()
    old = await save(one.cache, IMAGE, result(Category.FOODS), model="m")
    corrected = await correct(one.cache, IMAGE, Category.PETS, None)
    with redis.Redis.from_url(redis_url) as client:
        key = one.redis.key(IMAGE)
        # A process that does not know of the change yet has read the old entry before.
        await slow.copies.keep({IMAGE: old})
        assert in_redis(client, key) == old
        assert await one.cache.get(IMAGE) == corrected
        await slow.watch.look()
        assert await slow.cache.get(IMAGE) == corrected
        client.delete(key)
        await slow.copies.keep({IMAGE: old})
        assert client.get(key) is None
        # A process that starts now learns of the changes of the last minute before it asks Redis anything.
        client.set(key, write_copy(Copy(old, utc_now())))
        late = start(redis_url)
        await late.watch.look()
        assert await late.cache.get(IMAGE) == corrected


async def learn(process: Process, changes: dict[str, datetime], *, now: datetime) -> None:
    """Have a process look at the change feed, which shows `changes` of the last minute."""
    visible = {image_hash: changed_at for image_hash, changed_at in changes.items() if now - changed_at <= tiers.WINDOW}
    await process.copies.learn(visible, now=now, looked_at=time.monotonic())


# Before the change, and until its transaction has become visible.
@pytest.mark.parametrize("last_look", [-30, -1, 0, 5, 14])
async def test_an_old_copy_stops_to_count_before_its_change_is_forgotten(
    redis_url: str, start: Callable[..., Process], last_look: int
) -> None:
    """However late the copy comes: its writer, or Redis, was frozen, or a backup of Redis is restored again and again.

    The database's clock is made up.
    """
    writer, reader, fresh = (start(redis_url) for _ in range(3))
    changes = {IMAGE: NOW}
    await learn(writer, {}, now=NOW + timedelta(seconds=last_look))
    # The change is visible to all from here on.
    for second in range(max(last_look, 0) + 1, 150):
        now = NOW + timedelta(seconds=second)
        await learn(reader, changes, now=now)
        await learn(fresh, changes, now=now)
        await writer.copies.keep({IMAGE: ENTRY, OTHER_IMAGE: ENTRY})
        found = await reader.copies.find([IMAGE, OTHER_IMAGE])
        assert IMAGE not in found
        # What was not changed is found while it is young, or when a process that is up to date has written it.
        assert (OTHER_IMAGE in found) == (second - last_look < LIFETIME.total_seconds())
        await fresh.copies.keep({OTHER_IMAGE: ENTRY})
        assert await reader.copies.find([OTHER_IMAGE]) == {OTHER_IMAGE: ENTRY}


async def test_copies_of_the_future_do_not_count(redis_url: str, start: Callable[..., Process]) -> None:
    """The database's clock was set back by an hour."""
    before, after = start(redis_url), start(redis_url)
    await learn(before, {}, now=NOW)
    await before.copies.keep({IMAGE: ENTRY})
    assert await before.copies.find([IMAGE]) == {IMAGE: ENTRY}
    await learn(after, {}, now=NOW - timedelta(hours=1))
    assert await after.copies.find([IMAGE]) == {}


async def test_a_process_that_cannot_look_neither_reads_nor_writes(
    redis_url: str, start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, other = start(redis_url), start(redis_url)
    for each in (process, other):
        await learn(each, {}, now=NOW)
    await process.copies.keep({IMAGE: ENTRY})
    monkeypatch.setattr(tiers, "MAX_CHANGES", 1)
    # More than it can remember; otherwise its trust has simply ended.
    await learn(process, {"c" * 64: NOW, "d" * 64: NOW}, now=NOW)
    assert await process.copies.find([IMAGE]) == {}
    await process.copies.keep({OTHER_IMAGE: ENTRY})
    assert await other.copies.find([IMAGE, OTHER_IMAGE]) == {IMAGE: ENTRY}
    await learn(process, {}, now=NOW)
    assert await process.copies.find([IMAGE]) == {IMAGE: ENTRY}


async def wait_for_contact(process: Process) -> None:
    deadline = time.monotonic() + 60
    while not process.redis.in_contact:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
        await process.watch.look()


async def test_losing_redis_loses_nothing_and_its_return_resurrects_nothing(
    engine: AsyncEngine, start: Callable[..., Process], tmp_path: Path, log: list[str]
) -> None:
    port = free_port()
    persistent = ("--appendonly", "yes", "--appendfsync", "always", "--requirepass", SECRET)
    url = f"redis://:{SECRET}@127.0.0.1:{port}/0"
    process = start(url)
    # It need not be there at the start.
    await process.watch.look()
    saved = await save(process.cache, IMAGE, result(Category.FOODS), model="m")
    assert await process.cache.get(IMAGE) == saved
    with running_redis(tmp_path, *persistent, port=port):
        await wait_for_contact(process)
        kept = await save(process.cache, OTHER_IMAGE, result(Category.PETS), model="m")
        assert await process.cache.get(IMAGE) == saved
        with redis.Redis.from_url(url) as client:
            assert len(client.keys("*")) == 2
    # The server was killed. Everything goes on from the database, changes too.
    assert await process.cache.get(IMAGE) == saved
    assert not process.redis.in_contact
    await remove(process.cache, IMAGE)
    assert await process.cache.get(IMAGE) is None
    assert await process.cache.get(OTHER_IMAGE) == kept
    with running_redis(tmp_path, *persistent, port=port), redis.Redis.from_url(url) as client:
        # It has come back with the removed entry.
        assert len(client.keys("*")) == 2
        assert await process.cache.get(IMAGE) is None
        await wait_for_contact(process)
        assert await process.cache.get(IMAGE) is None
        assert await process.cache.get(OTHER_IMAGE) == kept
    said = [line for line in log if "Redis" in line]
    assert len([line for line in said if "out of reach" in line]) == 2
    assert len([line for line in said if "is back" in line]) == 2
    assert SECRET not in "".join(log)


async def test_a_wrong_password_is_told_without_the_right_one(
    engine: AsyncEngine, start: Callable[..., Process], tmp_path: Path, log: list[str]
) -> None:
    with running_redis(tmp_path, "--requirepass", SECRET) as (url, _):
        process = start(url.replace("redis://", "redis://:wrong-password@"))
        await process.watch.look()
        assert await process.cache.get(IMAGE) is None
    said = "".join(log)
    assert "Redis is out of reach (AuthenticationError)" in said
    assert "wrong-password" not in said


async def test_a_server_that_says_nothing_is_given_up(engine: AsyncEngine, log: list[str]) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = RedisClient(f"redis://127.0.0.1:{port}", key_space="test", timeout_seconds=0.2)
        cache = RedisCache(client)
        await cache.connect()
        assert not cache.in_contact
        assert await cache.get_many([IMAGE]) == {}
        await client.close()
    assert "out of reach" in "".join(log)
