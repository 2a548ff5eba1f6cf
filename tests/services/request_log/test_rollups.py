"""The figures equal what is computed from the requests one by one, for any number of processes and tries."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.database.batch_writer import BatchWriter, create_batch_writer
from app.database.pipeline import DuplicateRowError
from app.database.statements import Statement, execute
from app.database.tables.classification import CachedImage
from app.database.tables.statistics import Visitor
from app.services.cache.service import CacheService
from app.services.request_log import recorder as recorder_module
from app.services.request_log import rollups
from app.services.request_log.record import RequestRecord
from app.services.request_log.rollups import SHARDS, Rollups
from tests.support.cache_processes import save
from tests.support.databases import recorder_on
from tests.support.records import record
from tests.support.rollups import DAYS, SHANGHAI, computed, figures, random_records, stats_on


async def test_what_several_processes_write_at_once_adds_up(engine: AsyncEngine) -> None:
    records = random_records(1500)
    recorders = [recorder_on(engine, zone=SHANGHAI.key) for _ in range(4)]
    dice = random.Random(2)
    calls, rest = [], records
    while rest:
        size = dice.choice([1, 1, 1, 5, 40])
        batch, rest = rest[:size], rest[size:]
        calls.append(dice.choice(recorders).record(batch))
    await asyncio.gather(*calls)

    expected = computed(records)
    assert expected["days"][DAYS[1]]["total_requests"] > 300
    assert await figures(engine) == expected


async def test_a_batch_across_midnight_belongs_to_both_days(engine: AsyncEngine) -> None:
    midnight = datetime(2025, 10, 9, 16, tzinfo=UTC)
    records = [
        record(number, user_id=f"user-{number % 3}", created_at=midnight + timedelta(seconds=number - 4))
        for number in range(10)
    ]
    await recorder_on(engine, zone=SHANGHAI.key).record(records)
    assert await figures(engine) == computed(records)
    day, next_day = [await stats_on(engine).day(day) for day in DAYS[:2]]
    assert (day.total_requests, day.unique_users) == (4, 3)
    assert (next_day.total_requests, next_day.unique_users) == (6, 3)


async def test_user_ids_that_only_look_alike_are_different_users(engine: AsyncEngine) -> None:
    # The specification's collation takes the first three for one user.
    names = ["device-a", "Device-A", "dévice-a", "ｄevice-b"]
    recorders = [recorder_on(engine, zone="UTC") for _ in range(2)]
    for number in range(12):
        await recorders[number % 2].record([record(number * 10 + i, user_id=names[(number + i) % 4]) for i in range(3)])
    users = await stats_on(engine).top_users(10)
    assert sorted(user.user_id for user in users) == sorted(names)
    assert [user.request_count for user in users] == [9] * 4
    assert (await stats_on(engine, ZoneInfo("UTC")).day(DAYS[1])).unique_users == 4


def write_by(
    write: Callable[[BatchWriter, Sequence[Statement]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make new recorders write by `write`, which is given the real writer."""

    class Writer:
        def __init__(self, engine: AsyncEngine) -> None:
            self._real = create_batch_writer(engine)

        async def write(self, statements: Sequence[Statement]) -> None:
            await write(self._real, statements)

        async def close(self) -> None:
            await self._real.close()

    monkeypatch.setattr(recorder_module, "create_batch_writer", Writer)


async def test_nothing_is_counted_twice_when_the_answer_to_a_commit_is_lost(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = 0

    async def write_and_lose_the_answer(writer: BatchWriter, statements: Sequence[Statement]) -> None:
        nonlocal lost
        await writer.write(statements)
        if lost < 2:
            lost += 1
            # What the retry of a transaction does whose COMMIT went through.
            await writer.write(statements)

    write_by(write_and_lose_the_answer, monkeypatch)
    recorder = recorder_on(engine, zone=SHANGHAI.key)
    records = random_records(60)
    for start in range(0, 60, 20):
        await recorder.record(records[start : start + 20])
    assert lost == 2
    assert await figures(engine) == computed(records)


async def test_visitors_of_a_transaction_that_failed_are_counted_by_the_next(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 2

    async def fail_late_at_first(writer: BatchWriter, statements: Sequence[Statement]) -> None:
        nonlocal failures
        while failures:
            failures -= 1
            with pytest.raises(DuplicateRowError):
                await writer.write([*statements, Statement("INSERT INTO stats_state (name, value) VALUES (NULL, 'x')")])
        await writer.write(statements)

    write_by(fail_late_at_first, monkeypatch)
    records = random_records(50)
    recorder = recorder_on(engine, zone=SHANGHAI.key)
    await recorder.record(records[:25])
    await recorder.record(records[25:])
    assert failures == 0
    assert await figures(engine) == computed(records)


async def test_the_cache_is_summed_by_whoever_changes_it(engine: AsyncEngine) -> None:
    hashes = [f"{number:064x}" for number in range(6)]
    zone = ZoneInfo("UTC")
    caches = [
        CacheService(engine, accepts_provisional=False, rollups=Rollups(engine.dialect.name, zone)) for _ in range(4)
    ]
    result = ModelResult(Category.FOODS, 0.9, None, {})
    # Each saves everything; one of them is first.
    await asyncio.gather(*(save(cache, image_hash, result, model="m") for cache in caches for image_hash in hashes))
    assert asdict(await stats_on(engine).cache_efficiency())["total_cached_images"] == 6

    recorders = [recorder_on(engine), recorder_on(engine, log_enabled=False)]
    await asyncio.gather(
        *(
            recorders[number % 2].record([record(number, image_hash=hashes[number % 5], from_cache=number % 3 > 0)])
            for number in range(60)
        )
    )
    async with engine.begin() as connection:
        hits = await connection.scalar(select(CachedImage.hit_count).where(CachedImage.image_hash == hashes[0]))
        await connection.execute(delete(CachedImage).where(CachedImage.image_hash == hashes[0]))
        await execute(connection, Rollups(engine.dialect.name, zone).entries_removed(1, hits or 0))
    async with engine.connect() as connection:
        columns = (func.count(), func.sum(CachedImage.hit_count), func.max(CachedImage.hit_count))
        images, total, most = (await connection.execute(select(*columns))).one()
    efficiency = await stats_on(engine).cache_efficiency()
    assert (efficiency.total_cached_images, efficiency.total_hits, efficiency.max_hits) == (images, int(total), most)
    assert images == 5
    assert (await stats_on(engine, zone).day(DAYS[1])).total_requests == 30


def test_visitors_that_are_counted_cost_no_statement() -> None:
    process = Rollups("mysql", SHANGHAI)
    records = [each for each in random_records(100) if each.created_at.astimezone(SHANGHAI).date() > DAYS[0]]
    first = process.statements(records, logged=True)
    # Until it is committed, every try has to count them.
    assert process.statements(records, logged=True) == first
    process.committed(records)
    later = process.statements(records, logged=True)
    assert [each for each in first if "stats_visitor" not in each.text] == later
    assert [each.text.split()[2] for each in later] == ["stats_user", "stats_period", "stats_cache"]
    assert process.statements(records, logged=False) == later[-1:]
    assert process.statements([record(1, from_cache=False)], logged=False) == []


def test_a_process_remembers_two_days_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "MAX_KNOWN_VISITORS", 50)
    process = Rollups("mysql", SHANGHAI)

    def asks(number: int, day: int) -> bool:
        return any("stats_visitor" in each.text for each in process.statements([on_day(number, day)], logged=True))

    def on_day(number: int, day: int) -> RequestRecord:
        return record(number, user_id=f"user-{number}", created_at=datetime(2025, 10, day, tzinfo=UTC))

    for day in (9, 10, 11):
        process.committed([on_day(1, day)])
    assert [asks(1, day) for day in (9, 10, 11)] == [True, False, False]
    process.committed([on_day(number, 11) for number in range(60)])
    assert asks(1, 11)


def test_the_text_of_a_statement_has_a_placeholder_for_each_parameter() -> None:
    for dialect in ("mysql", "mariadb", "sqlite"):
        process = Rollups(dialect, SHANGHAI)
        for each in [*process.statements(random_records(40), logged=True), process.entry_added()]:
            assert each.text.count("%s") == each.text.count("%") == len(each.parameters)
    assert {Rollups("mysql", SHANGHAI).entry_added().parameters[0] for _ in range(200)} == set(range(SHARDS))


async def test_nobody_is_written_down_as_nobody(engine: AsyncEngine) -> None:
    await recorder_on(engine).record([record(1, user_id=None, ip_address=None)])
    async with engine.begin() as connection:
        assert await connection.scalar(select(func.count()).select_from(Visitor)) == 0
        await connection.execute(
            insert(Visitor), [{"day": DAYS[0], "kind": kind, "visitor": "x"} for kind in ("user", "ip")]
        )
    day = await stats_on(engine, ZoneInfo("UTC")).day(DAYS[1])
    assert (day.total_requests, day.unique_users, day.unique_ips) == (1, 0, 0)
