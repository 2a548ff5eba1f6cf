"""The figures equal the specification's own SQL (section 7.4), run on the same rows of the same database."""

import re
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.metering import CallOutcome
from app.database.pipeline import run
from app.database.tables.classification import CachedImage
from app.database.tables.statistics import UserTotals
from app.errors import InvalidRequest
from app.services.api_keys.administration import create_key, end_key
from app.services.api_keys.key import Scope
from app.services.spending.ledger import Ledger
from app.services.statistics.shares import Days
from app.services.statistics.spending import SpendingGroup, SpendingShare
from app.services.statistics.timeseries import Bucket
from tests.support.statistics import ledger_row, log_and_sum, log_row, stats_service

DAY = date(2025, 10, 10)

TODAY_SQL = """
SELECT
    COUNT(*) as total_requests,
    SUM(CASE WHEN from_cache = 1 THEN 1 ELSE 0 END) as cache_hits,
    SUM(CASE WHEN from_cache = 0 THEN 1 ELSE 0 END) as cache_misses,
    ROUND(SUM(CASE WHEN from_cache = 1 THEN 1 ELSE 0 END) * 100.0 / COUNT(*), 2) as cache_hit_rate,
    COUNT(DISTINCT user_id) as unique_users,
    COUNT(DISTINCT ip_address) as unique_ips,
    AVG(processing_time_ms) as avg_processing_time,
    SUM(CASE WHEN from_cache = 0 THEN 1 ELSE 0 END) * 0.01 as estimated_cost,
    SUM(CASE WHEN from_cache = 1 THEN 1 ELSE 0 END) * 0.01 as cost_saved
FROM request_log
WHERE created_date = :day
"""
EFFICIENCY_SQL = """
SELECT
    COUNT(*) as total_cached_images,
    SUM(hit_count) as total_hits,
    SUM(hit_count - 1) as times_saved,
    (SUM(hit_count - 1) * 0.01) as cost_saved,
    AVG(hit_count) as avg_hit_per_image,
    MAX(hit_count) as max_hits
FROM image_classification_cache
"""
DISTRIBUTION_SQL = """
SELECT
    category,
    COUNT(*) as count,
    ROUND(AVG(confidence), 4) as avg_confidence,
    ROUND(COUNT(*) * 100.0 / (SELECT COUNT(*) FROM request_log WHERE created_date = :day), 2) as percentage
FROM request_log
WHERE created_date = :day
GROUP BY category
ORDER BY count DESC
"""
TOP_IMAGES_SQL = """
SELECT
    image_hash,
    category,
    confidence,
    hit_count,
    created_at,
    last_hit_at,
    TIMESTAMPDIFF(DAY, created_at, last_hit_at) as lifetime_days
FROM image_classification_cache
ORDER BY hit_count DESC
LIMIT 10
"""
TOP_USERS_SQL = """
SELECT
    user_id,
    COUNT(*) as request_count,
    SUM(CASE WHEN from_cache = 1 THEN 1 ELSE 0 END) as cache_hits,
    ROUND(SUM(CASE WHEN from_cache = 1 THEN 1 ELSE 0 END) * 100.0 / COUNT(*), 2) as cache_hit_rate,
    MIN(created_at) as first_request,
    MAX(created_at) as last_request
FROM request_log
WHERE user_id IS NOT NULL
GROUP BY user_id
ORDER BY request_count DESC
LIMIT 20
"""
SQLITE_DAYS = "CAST(julianday(last_hit_at) - julianday(created_at) AS INTEGER)"


async def run_sql(engine: AsyncEngine, sql: str) -> list[dict[str, Any]]:
    if engine.dialect.name == "sqlite":
        sql = sql.replace("TIMESTAMPDIFF(DAY, created_at, last_hit_at)", SQLITE_DAYS)
    async with engine.connect() as connection:
        rows = await connection.execute(text(sql), {"day": DAY.isoformat()} if ":day" in sql else {})
        return [dict(row._mapping) for row in rows]


def plain(value: Any) -> Any:
    """What a driver returns, as the service returns it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, str) and value[:2] == "20" and ":" in value:
        value = datetime.fromisoformat(value)
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


async def test_day_equals_the_specification(filled: AsyncEngine) -> None:
    [expected] = await run_sql(filled, TODAY_SQL)
    actual = asdict(await stats_service(filled).day(DAY))
    assert actual.pop("currency") == "CNY"
    assert (actual.pop("similar_hits"), actual.pop("saved_by_similar")) == (0, 0.0)
    average = actual.pop("avg_processing_time_ms")
    assert average == pytest.approx(float(expected.pop("avg_processing_time")), abs=0.005)
    assert actual == pytest.approx({key: plain(value) for key, value in expected.items()})
    assert actual["total_requests"] > 500


async def test_cache_efficiency_equals_the_specification(filled: AsyncEngine) -> None:
    [expected] = await run_sql(filled, EFFICIENCY_SQL)
    actual = asdict(await stats_service(filled).cache_efficiency())
    assert actual.pop("currency") == "CNY"
    assert (actual.pop("similar_hits"), actual.pop("saved_by_similar")) == (0, 0.0)
    assert actual == pytest.approx({key: plain(value) for key, value in expected.items()}, abs=0.005)


async def test_category_distribution_equals_the_specification(filled: AsyncEngine) -> None:
    expected = await run_sql(filled, DISTRIBUTION_SQL)
    actual = await stats_service(filled).category_distribution(Days(DAY, DAY))
    assert [asdict(share) for share in actual] == [{key: plain(v) for key, v in row.items()} for row in expected]
    assert len(actual) == 8


async def test_top_users_equal_the_specification(filled: AsyncEngine) -> None:
    expected = await run_sql(filled, TOP_USERS_SQL)
    actual = [asdict(user) for user in await stats_service(filled).top_users(20)]
    by_user = {row["user_id"]: {key: plain(value) for key, value in row.items()} for row in expected}
    assert [row["request_count"] for row in actual] == [row["request_count"] for row in expected]
    assert all(row == by_user[row["user_id"]] for row in actual if row["user_id"] in by_user)
    assert len(await stats_service(filled).top_users(3)) == 3


async def test_top_images_equal_the_specification(filled: AsyncEngine) -> None:
    expected = await run_sql(filled, TOP_IMAGES_SQL)
    actual = await stats_service(filled).top_images(10)
    assert [asdict(image) for image in actual] == [{key: plain(v) for key, v in row.items()} for row in expected]


async def test_the_busiest_are_found_in_an_index_however_many_are_asked_for(engine: AsyncEngine) -> None:
    moment = datetime(2025, 10, 10, tzinfo=UTC)
    users = [
        {"user_id": str(n), "requests": n, "hits": 0, "first_request_at": moment, "last_request_at": moment}
        for n in range(5000)
    ]
    image = {"category": "foods", "confidence": 0.9, "model_used": "m", "created_at": moment, "last_hit_at": moment}
    async with engine.begin() as connection:
        await connection.execute(insert(UserTotals), users)
        await connection.execute(
            insert(CachedImage), [{"image_hash": str(n), "hit_count": n, **image} for n in range(5000)]
        )
    # What the planner believes of a table lags behind.
    async with engine.connect() as connection:
        for table in (UserTotals, CachedImage):
            analyze = "ANALYZE" if engine.dialect.name == "sqlite" else "ANALYZE TABLE"
            await connection.exec_driver_sql(f"{analyze} {table.__tablename__}")
    queries: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            queries.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await stats_service(engine).top_users(1000)
    await stats_service(engine).top_images(1000)
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    async with engine.connect() as connection:
        expected = ((UserTotals.__tablename__, "idx_requests"), (CachedImage.__tablename__, "idx_hit_count"))
        for (statement, parameters), (name, index) in zip(queries, expected, strict=True):
            rows = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
            plan = " ".join(str(value) for row in rows for value in row)
            assert index in plan
            # In the words of MySQL, MariaDB and SQLite.
            assert f"Table scan on {name}" not in plan
            assert f"{name} ALL" not in plan
            assert re.search(rf"SCAN {name}(?! USING COVERING INDEX)", plan) is None


async def test_an_empty_database_gives_zeros(engine: AsyncEngine) -> None:
    stats = stats_service(engine)
    assert set(asdict(await stats.day(DAY)).values()) == {0, "CNY"}
    assert set(asdict(await stats.cache_efficiency()).values()) == {0, "CNY"}
    assert await stats.category_distribution(Days(DAY, DAY)) == []
    assert await stats.top_users(5) == []
    assert await stats.top_images(5) == []


async def test_the_day_is_that_of_the_time_zone(engine: AsyncEngine) -> None:
    # Midnight in Shanghai is 16:00 UTC of the day before.
    moments = [
        datetime(2025, 10, 9, 15, 59, 59, tzinfo=UTC),
        datetime(2025, 10, 9, 16, 0, 0, tzinfo=UTC),
        datetime(2025, 10, 10, 15, 59, 59, tzinfo=UTC),
        datetime(2025, 10, 10, 16, 0, 0, tzinfo=UTC),
    ]
    await log_and_sum(engine, [log_row(i, created_at=moment) for i, moment in enumerate(moments)])
    assert (await stats_service(engine, "Asia/Shanghai").day(DAY)).total_requests == 2
    assert (await stats_service(engine, "UTC").day(DAY)).total_requests == 2
    assert (await stats_service(engine, "America/New_York").day(date(2025, 10, 9))).total_requests == 2
    # A day of 25 hours: clocks go back on 2025-11-02 in New York.
    assert (await stats_service(engine, "America/New_York").day(date(2025, 11, 2))).total_requests == 0


async def test_money_is_what_the_calls_have_cost(engine: AsyncEngine) -> None:
    await log_and_sum(engine, [log_row(i, from_cache=int(i < 7)) for i in range(10)], cost_micros=2500)
    day = await stats_service(engine).day(DAY)
    assert (day.estimated_cost, day.cost_saved) == (0.0075, 0.0175)


def test_today_changes_at_midnight_of_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2025, 10, 9, 16, 0, 0, tzinfo=UTC)
    monkeypatch.setattr("app.services.statistics.service.utc_now", lambda: moment)
    engine: Any = None
    assert stats_service(engine, "Asia/Shanghai").today() == date(2025, 10, 10)
    assert stats_service(engine, "UTC").today() == date(2025, 10, 9)


async def test_spending_is_what_the_ledger_says(engine: AsyncEngine) -> None:
    ledger = Ledger(engine.dialect.name)
    revoked = await create_key(engine, name="album server", scopes=[Scope.CLASSIFY], actor="tests")
    await end_key(engine, revoked.id, actor="tests")
    rows = [
        ledger_row("a", model="small", api_key_id=None, cost_micros=1000, input_tokens=10, output_tokens=2),
        ledger_row("b", model="small", api_key_id=revoked.id, cost_micros=2000, input_tokens=20, cached_input_tokens=5),
        ledger_row("c", model="large", api_key_id=revoked.id, cost_micros=4001, outcome=CallOutcome.INVALID),
        ledger_row("d", model="large", api_key_id=revoked.id, called_at=datetime(2025, 10, 12, tzinfo=UTC)),
    ]
    await run(engine, ledger.statements(rows), writes=True)
    stats = stats_service(engine)
    assert await stats.spending(SpendingGroup.MODEL, Days(DAY, DAY)) == [
        SpendingShare("large", None, 1, 0, 0, 0, 0.004001),
        SpendingShare("small", None, 2, 30, 5, 2, 0.003),
    ]
    by_key = await stats.spending(SpendingGroup.KEY, Days(DAY, DAY))
    assert [(share.name, share.key_name, share.calls, share.cost) for share in by_key] == [
        (str(revoked.id), "album server", 2, 0.006001),
        (None, None, 1, 0.001),
    ]
    [provider] = await stats.spending(SpendingGroup.PROVIDER, Days(DAY, DAY + timedelta(days=3)))
    assert (provider.name, provider.calls) == ("custom", 4)
    with pytest.raises(InvalidRequest):
        await stats.spending(SpendingGroup.MODEL, Days(DAY, DAY - timedelta(days=1)))


@pytest.mark.parametrize("bucket", Bucket)
async def test_a_series_of_one_category_counts_its_requests_only(filled: AsyncEngine, bucket: Bucket) -> None:
    stats = stats_service(filled)
    start = datetime(2025, 10, 8, tzinfo=UTC)
    end = start + timedelta(days=4)
    whole = await stats.timeseries(bucket, start, end)
    parts = [await stats.timeseries(bucket, start, end, category) for category in Category]
    assert [sum(part[place].requests for part in parts) for place in range(len(whole))] == [w.requests for w in whole]
    assert [sum(part[place].hits for part in parts) for place in range(len(whole))] == [w.hits for w in whole]
    assert {figures.errors for figures in parts[0]} == {figures.money_spent for figures in parts[0]} == {None}
    saved = sum(figures.money_saved for part in parts for figures in part)
    assert saved == pytest.approx(sum(figures.money_saved for figures in whole))
    assert whole[0].requests > parts[0][0].requests
