"""Redis holds copies and nothing else: it may lie, vanish, forget and remember too much, and no wrong answer comes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.services.cache import redis as redis_tier
from app.services.cache import tiers
from app.services.cache.entry import CachedResult
from app.services.cache.invalidation import CacheInvalidator
from app.services.cache.redis import RedisCache, read_entry, write_entry
from app.services.cache.service import CacheService
from app.services.cache.tiers import CacheTiers
from app.services.redis import RedisClient
from tests.servers.processes import free_port
from tests.servers.redis import running_redis
from tests.support.cache_processes import save
from tests.support.databases import rollups_for

IMAGE = "a" * 64
OTHER_IMAGE = "b" * 64
ENTRY = CachedResult(Category.PETS, 0.9876, "一只猫 🐈 \\ \"'\n")
# A busy machine may take longer than the service would wait.
PATIENCE_SECONDS = 10.0
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "TRUST_SECONDS", 600.0)
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
        self.copies = CacheTiers(redis=self.redis)
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
    "entry", [ENTRY, CachedResult(Category.OTHER, 0.0, None), CachedResult(Category.IDCARD, 1.0, "")]
)
def test_an_entry_survives(entry: CachedResult) -> None:
    assert read_entry(write_entry(entry)) == entry


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b'{"a": 1, "b": 2, "c": 3}',
        b'["pets", 0.5]',
        b'["pets", 0.5, null, null]',
        b'["cats", 0.5, null]',
        b'["PETS", 0.5, null]',
        b'[["pets"], 0.5, null]',
        b'["pets", 1.01, null]',
        b'["pets", -0.5, null]',
        b'["pets", NaN, null]',
        b'["pets", Infinity, null]',
        b'["pets", true, null]',
        b'["pets", "0.5", null]',
        b'["pets", 0.5, 7]',
        b'["pets", 0.5, ["x"]]',
        rb'["pets", 0.5, "\ud800"]',
        b'["pets", 0.5, "\xff"]',
        b'["pets", 1' + b"0" * 6000 + b", null]",
        b'["pets", 0.5, "' + b"x" * 70_000 + b'"]',
        b"[" * 60_000,
        "not bytes",
        None,
    ],
)
def test_anything_else_counts_as_absent(value: object) -> None:
    assert read_entry(value) is None


# ----- a real server


async def test_entries_expire_and_installations_do_not_meet(redis_url: str) -> None:
    clients = [RedisClient(redis_url, key_space=space, timeout_seconds=PATIENCE_SECONDS) for space in ("one", "two")]
    one, other = map(RedisCache, clients)
    for each in (one, other):
        await each.connect(forget=[])
    await one.set_many({IMAGE: ENTRY, OTHER_IMAGE: ENTRY})
    assert await one.get_many([IMAGE, "c" * 64]) == {IMAGE: ENTRY}
    assert await other.get_many([IMAGE]) == {}
    with redis.Redis.from_url(redis_url) as client:
        assert len(client.keys("ic1:*")) == 2
        assert 0 < client.ttl(one.key(IMAGE)) <= 24 * 3600
    await one.forget([IMAGE])
    assert await one.get_many([IMAGE, OTHER_IMAGE]) == {OTHER_IMAGE: ENTRY}
    for client in clients:
        await client.close()


async def test_redis_stands_between(engine: AsyncEngine, redis_url: str, start: Callable[..., Process]) -> None:
    one, other = start(redis_url), start(redis_url)
    for process in (one, other):
        await process.watch.look()
    saved = await save(one.cache, IMAGE, result(Category.FOODS), model="m")
    with redis.Redis.from_url(redis_url) as client:
        key = one.redis.key(IMAGE)
        assert client.get(key) == write_entry(saved)
        # To be told from the database's, it says something else.
        client.set(key, write_entry(ENTRY))
        assert await other.cache.get(IMAGE) == ENTRY
        assert await other.cache.get_many([IMAGE, OTHER_IMAGE]) == {IMAGE: ENTRY}
        client.delete(key)
        assert await other.cache.get(IMAGE) == saved
        # Filled on the way back.
        assert client.get(key) == write_entry(saved)


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
            assert client.get(key) == write_entry(saved)
        client.delete(key)
        client.lpush(key, "another type")
        assert await process.cache.get(IMAGE) == saved
        assert client.get(key) == write_entry(saved)


async def test_provisional_entries_do_not_go_there(
    engine: AsyncEngine, redis_url: str, start: Callable[..., Process]
) -> None:
    demo = start(redis_url, local=True)
    await demo.watch.look()
    saved = await save(demo.cache, IMAGE, result(Category.FOODS), model="local/efficientnet-lite2/1")
    assert await demo.cache.get(IMAGE) == saved
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("*") == []


async def test_a_change_reaches_redis_and_what_a_slow_process_writes_after_it_is_nobodys_answer(
    engine: AsyncEngine, redis_url: str, start: Callable[..., Process]
) -> None:
    one, slow = start(redis_url), start(redis_url)
    for process in (one, slow):
        await process.watch.look()
    old = await save(one.cache, IMAGE, result(Category.FOODS), model="m")
    corrected = await one.cache.correct(IMAGE, Category.PETS, None)
    with redis.Redis.from_url(redis_url) as client:
        key = one.redis.key(IMAGE)
        assert client.get(key) is None
        # A process that does not know of the change yet has read the old entry before.
        await slow.copies.keep({IMAGE: old})
        assert client.get(key) == write_entry(old)
        assert await one.cache.get(IMAGE) == corrected
        await slow.watch.look()
        assert client.get(key) is None
        await slow.copies.keep({IMAGE: old})
        assert client.get(key) is None
        assert await slow.cache.get(IMAGE) == corrected
        # A process that starts now learns of the changes of a day before it asks Redis anything.
        client.set(key, write_entry(old))
        late = start(redis_url)
        await late.watch.look()
        assert client.get(key) is None
        client.set(key, write_entry(old))
        assert await late.cache.get(IMAGE) == corrected


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
    await process.cache.remove(IMAGE)
    assert await process.cache.get(IMAGE) is None
    assert await process.cache.get(OTHER_IMAGE) == kept
    with running_redis(tmp_path, *persistent, port=port), redis.Redis.from_url(url) as client:
        # It has come back with the removed entry.
        assert len(client.keys("*")) == 2
        assert await process.cache.get(IMAGE) is None
        await wait_for_contact(process)
        assert await process.cache.get(IMAGE) is None
        assert client.keys("*") == [process.redis.key(OTHER_IMAGE).encode()]
        assert await process.cache.get(OTHER_IMAGE) == kept
    said = [line for line in log if "Redis" in line]
    assert len([line for line in said if "out of reach" in line]) == 2
    assert len([line for line in said if "is back" in line]) == 2
    assert SECRET not in "".join(log)


async def test_a_restart_that_nobody_noticed_resurrects_nothing(
    engine: AsyncEngine, start: Callable[..., Process], tmp_path: Path
) -> None:
    """As if a backup were restored: the connections stay, and a removed entry is there again."""
    with running_redis(tmp_path) as (url, _):
        process = start(url)
        await process.watch.look()
        old = await save(process.cache, IMAGE, result(Category.FOODS), model="m")
        await process.cache.remove(IMAGE)
        # The minute in which changes are deleted again and again is over.
        process.copies._recent.clear()
        with redis.Redis.from_url(url) as client:
            client.set(process.redis.key(IMAGE), write_entry(old))
        assert await process.cache.get(IMAGE) is None


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
        client = RedisClient(f"redis://127.0.0.1:{port}", key_space="test")
        cache = RedisCache(client)
        await cache.connect(forget=[IMAGE])
        assert not cache.in_contact
        assert await cache.get_many([IMAGE]) == {}
        await client.close()
    assert "out of reach" in "".join(log)


async def test_too_many_changes_let_redis_rest(
    engine: AsyncEngine, redis_url: str, start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(redis_url)
    await process.watch.look()
    hashes = [f"{number:064x}" for number in range(5)]
    for each in hashes:
        await save(process.cache, each, result(Category.FOODS), model="m")
    monkeypatch.setattr(tiers, "MAX_CHANGES", 3)
    for each in hashes[:4]:
        await process.cache.remove(each)
    await process.watch.look()
    with redis.Redis.from_url(redis_url) as client:
        client.set(process.redis.key(hashes[4]), write_entry(ENTRY))
    assert await process.cache.get(hashes[4]) == CachedResult(Category.FOODS, 0.9, "a photo of foods")
