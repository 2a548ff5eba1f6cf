"""The figures equal what is computed from the requests one by one, whoever writes them, however often it is tried."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.config.settings import StatisticsSettings
from app.database.batch_writer import BatchWriter, create_batch_writer
from app.database.pipeline import DuplicateRowError
from app.database.statements import Statement, execute
from app.database.tables.classification import CachedImage, StatsState, Visitor
from app.services.cache.service import CacheService
from app.services.request_log import recorder as recorder_module
from app.services.request_log import rollups
from app.services.request_log.backfill import build_rollups
from app.services.request_log.record import RequestRecord
from app.services.request_log.rollups import SHARDS, Rollups
from app.services.statistics.service import StatsService
from tests.services.request_log.test_recorder import record
from tests.support.cache_processes import save
from tests.support.databases import recorder_on

SHANGHAI = ZoneInfo("Asia/Shanghai")
# Two or four decimals; the rest is for what binary fractions are off.
ROUNDED_2, ROUNDED_4 = 0.005 + 1e-9, 0.00005 + 1e-9
DAYS = [date(2025, 10, 9), date(2025, 10, 10), date(2025, 10, 11)]


def stats_on(engine: AsyncEngine, zone: ZoneInfo = SHANGHAI) -> StatsService:
    return StatsService(engine, StatisticsSettings.model_validate({"timezone": zone.key, "cost_per_call": "0.01"}))


async def figures(engine: AsyncEngine, days: Sequence[date] = DAYS, zone: ZoneInfo = SHANGHAI) -> dict[str, Any]:
    """Every figure of the statistics but those of the images."""
    stats = stats_on(engine, zone)
    return {
        "days": {day: asdict(await stats.day(day)) for day in days},
        "categories": {day: [asdict(share) for share in await stats.category_distribution(day)] for day in days},
        "users": [asdict(user) for user in await stats.top_users(1000)],
    }


def computed(
    records: Sequence[RequestRecord],
    same_user: Callable[[str], str],
    days: Sequence[date] = DAYS,
    zone: ZoneInfo = SHANGHAI,
) -> dict[str, Any]:
    """The same, computed here from the requests themselves."""
    users = defaultdict[str, list[RequestRecord]](list)
    for each in records:
        if each.user_id is not None:
            users[same_user(each.user_id)].append(each)
    on = {day: [each for each in records if each.created_at.astimezone(zone).date() == day] for day in days}
    return {
        "days": {day: _computed_day(rows, same_user) for day, rows in on.items()},
        "categories": {day: _computed_shares(rows) for day, rows in on.items()},
        "users": [
            {
                "user_id": user,
                "request_count": len(rows),
                "cache_hits": sum(row.from_cache for row in rows),
                "cache_hit_rate": pytest.approx(100 * sum(row.from_cache for row in rows) / len(rows), abs=ROUNDED_2),
                "first_request": min(row.created_at for row in rows),
                "last_request": max(row.created_at for row in rows),
            }
            for user, rows in sorted(users.items(), key=lambda item: (len(item[1]), item[0]), reverse=True)
        ],
    }


def _computed_day(rows: Sequence[RequestRecord], same_user: Callable[[str], str]) -> dict[str, Any]:
    hits = sum(row.from_cache for row in rows)
    whole = len(rows) or 1
    return {
        "total_requests": len(rows),
        "cache_hits": hits,
        "cache_misses": len(rows) - hits,
        "cache_hit_rate": pytest.approx(100 * hits / whole, abs=ROUNDED_2),
        "unique_users": len({same_user(row.user_id) for row in rows if row.user_id is not None}),
        "unique_ips": len({row.ip_address for row in rows if row.ip_address is not None}),
        "avg_processing_time_ms": pytest.approx(sum(row.processing_time_ms for row in rows) / whole, abs=ROUNDED_2),
        "estimated_cost": pytest.approx((len(rows) - hits) * 0.01),
        "cost_saved": pytest.approx(hits * 0.01),
    }


def _computed_shares(rows: Sequence[RequestRecord]) -> list[dict[str, Any]]:
    groups = defaultdict[str, list[float]](list)
    for row in rows:
        groups[row.category].append(row.confidence)
    return [
        {
            "category": category,
            "count": len(values),
            "percentage": pytest.approx(100 * len(values) / len(rows), abs=ROUNDED_2),
            "avg_confidence": pytest.approx(sum(values) / len(values), abs=ROUNDED_4),
        }
        for category, values in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def random_records(count: int, seed: int = 1) -> list[RequestRecord]:
    """Requests of three days of Shanghai, many of them close to a midnight; some without user or address."""
    dice = random.Random(seed)
    midnights = [datetime(2025, 10, 9, 16, tzinfo=UTC), datetime(2025, 10, 10, 16, tzinfo=UTC)]
    return [
        record(
            number,
            user_id=dice.choice([None, *(f"user-{i}" for i in range(20))]),
            ip_address=dice.choice([None, *(f"10.0.0.{i}" for i in range(9))]),
            image_hash=f"{dice.randrange(30):064x}",
            category=dice.choice(list(Category)).value,
            confidence=dice.randrange(10_001) / 10_000,
            from_cache=dice.random() < 0.6,
            processing_time_ms=dice.randrange(3000),
            created_at=dice.choice(midnights) + timedelta(seconds=int(dice.gauss(0, 3600))),
        )
        for number in range(count)
    ]


def users_of(engine: AsyncEngine) -> Callable[[str], str]:
    """Which user ids are one user there: MySQL's collation does not look at the case."""
    return str if engine.dialect.name == "sqlite" else str.casefold


async def rebuilt(engine: AsyncEngine, zone: ZoneInfo = SHANGHAI) -> None:
    """Have everything computed from the log again."""
    async with engine.begin() as connection:
        await connection.execute(delete(StatsState))
    await build_rollups(engine, zone)


async def test_what_several_processes_write_at_once_adds_up(engine: AsyncEngine) -> None:
    await build_rollups(engine, SHANGHAI)
    records = random_records(1500)
    recorders = [recorder_on(engine, zone=SHANGHAI.key) for _ in range(4)]
    dice = random.Random(2)
    calls, rest = [], records
    while rest:
        size = dice.choice([1, 1, 1, 5, 40])
        batch, rest = rest[:size], rest[size:]
        calls.append(dice.choice(recorders).record(batch))
    await asyncio.gather(*calls)

    expected = computed(records, users_of(engine))
    assert expected["days"][DAYS[1]]["total_requests"] > 300
    assert await figures(engine) == expected
    await rebuilt(engine)
    assert await figures(engine) == expected


async def test_a_batch_across_midnight_belongs_to_both_days(engine: AsyncEngine) -> None:
    midnight = datetime(2025, 10, 9, 16, tzinfo=UTC)
    records = [
        record(number, user_id=f"user-{number % 3}", created_at=midnight + timedelta(seconds=number - 4))
        for number in range(10)
    ]
    await recorder_on(engine, zone=SHANGHAI.key).record(records)
    assert await figures(engine) == computed(records, users_of(engine))
    day, next_day = [await stats_on(engine).day(day) for day in DAYS[:2]]
    assert (day.total_requests, day.unique_users) == (4, 3)
    assert (next_day.total_requests, next_day.unique_users) == (6, 3)


async def test_a_user_is_who_the_database_takes_for_one(engine: AsyncEngine) -> None:
    names = ["Device-A", "device-a", "DEVICE-A", "device-b"]
    recorders = [recorder_on(engine, zone="UTC") for _ in range(2)]
    for number in range(12):
        await recorders[number % 2].record([record(number * 10 + i, user_id=names[(number + i) % 4]) for i in range(3)])
    users = await stats_on(engine).top_users(10)
    if engine.dialect.name == "sqlite":
        assert sorted(user.user_id for user in users) == sorted(names)
        assert [user.request_count for user in users] == [9] * 4
    else:
        assert [(user.user_id.casefold(), user.request_count) for user in users] == [("device-a", 27), ("device-b", 9)]
    assert (await stats_on(engine, ZoneInfo("UTC")).day(DAYS[1])).unique_users == len(users)


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
    assert await figures(engine) == computed(records, users_of(engine))


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
    assert await figures(engine) == computed(records, users_of(engine))


async def test_the_cache_is_summed_by_whoever_changes_it(engine: AsyncEngine) -> None:
    hashes = [f"{number:064x}" for number in range(6)]
    zone = ZoneInfo("UTC")
    caches = [
        CacheService(engine, accepts_provisional=False, rollups=Rollups(engine.dialect.name, zone)) for _ in range(4)
    ]
    result = ModelResult(Category.FOODS, 0.9, None, {})
    # Everybody saves everything; one of them is first.
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
        await execute(connection, Rollups(engine.dialect.name, zone).entry_removed(hits or 0))
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
