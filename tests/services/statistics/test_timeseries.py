"""Series equal what plain SQL on the log gives for each of their buckets."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import day_in_utc
from app.config.settings import StatisticsSettings
from app.database.statements import timestamp_text
from app.database.tables.statistics import ErrorPeriod
from app.database.transactions import read
from app.errors import InvalidRequest, ServerBusy
from app.services.request_log.backfill import recount_visitors
from app.services.statistics import service as stats_module
from app.services.statistics.timeseries import MAX_NUMBERS, Bucket, bucket_bounds, read_buckets
from tests.support.statistics import log_and_sum, log_row, stats_service

BUCKET_SQL = """
SELECT
    COUNT(*) AS requests,
    SUM(CASE WHEN from_cache = 1 THEN 1 ELSE 0 END) AS hits,
    COUNT(DISTINCT user_id) AS users,
    SUM(processing_time_ms) AS milliseconds,
    (SELECT SUM(errors) FROM stats_error WHERE period_start >= :start AND period_start < :end) AS errors
FROM request_log
WHERE created_at >= :start AND created_at < :end
"""


async def by_plain_sql(engine: AsyncEngine, starts: Sequence[datetime], end: datetime) -> list[dict[str, Any]]:
    figures = []
    async with engine.connect() as connection:
        for start, until in zip(starts, [*starts[1:], end], strict=True):
            bounds = {"start": timestamp_text(start), "end": timestamp_text(until)}
            row = (await connection.execute(text(BUCKET_SQL), bounds)).one()
            requests, hits = row.requests, int(row.hits or 0)
            figures.append(
                {
                    "requests": requests,
                    "hits": hits,
                    "misses": requests - hits,
                    "hit_rate": hits * 100 / requests if requests else 0,
                    "users": row.users,
                    "money_spent": float((requests - hits) * Decimal("0.01")),
                    "money_saved": float(hits * Decimal("0.01")),
                    "latency": float(row.milliseconds) / requests if requests else 0,
                    "errors": int(row.errors or 0),
                }
            )
    return figures


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("bucket", Bucket)
async def test_buckets_equal_plain_sql(filled: AsyncEngine, bucket: Bucket, zone: str) -> None:
    here = ZoneInfo(zone)
    if bucket is Bucket.DAY:
        await recount_visitors(filled, here)
    quarters = [datetime(2025, 10, 8, tzinfo=UTC) + timedelta(minutes=15 * number) for number in range(4 * 96)]
    errors: list[dict[str, Any]] = [
        {"period_start": quarter, "code": code, "shard": number % 3, "errors": number % 7 + 1}
        for number, quarter in enumerate(quarters)
        for code in ("model_timeout", "internal_error")
    ]
    async with filled.begin() as connection:
        await connection.execute(insert(ErrorPeriod), errors)
    # The log begins on 8 October and ends on the 11th (UTC); some buckets before and after it are empty.
    first_day = 6 if bucket is Bucket.DAY else 7
    start, end = datetime(2025, 10, first_day, 5, 20, tzinfo=here), datetime(2025, 10, 13, 21, 50, tzinfo=here)
    if bucket is Bucket.DAY:
        starts = [day_in_utc(date(2025, 10, day), here)[0] for day in range(first_day, 14)]
        last = day_in_utc(date(2025, 10, 14), here)[0]
    else:
        length = timedelta(hours=1) if bucket is Bucket.HOUR else timedelta(minutes=15)
        first = datetime(2025, 10, 7, 5, 0 if bucket is Bucket.HOUR else 15, tzinfo=here).astimezone(UTC)
        last = datetime(2025, 10, 13, 22, tzinfo=here).astimezone(UTC)
        starts = [first + number * length for number in range((last - first) // length)]
    expected = await by_plain_sql(filled, starts, last)
    actual = [asdict(each) for each in await stats_service(filled, zone).timeseries(bucket, start, end)]
    if bucket is not Bucket.DAY:
        assert {each.pop("users") for each in actual} == {None}
        for each in expected:
            del each["users"]
    assert [each.pop("start") for each in actual] == starts
    assert actual == [pytest.approx(each, abs=0.0051) for each in expected]
    assert sum(each["requests"] for each in actual) == 3000
    assert sum(each["errors"] for each in actual) == sum(each["errors"] for each in errors)
    assert actual[0]["requests"] == actual[-1]["requests"] == 0


async def test_days_on_which_clocks_change_are_whole_days(engine: AsyncEngine) -> None:
    zone = ZoneInfo("America/New_York")
    # Clocks go back at 06:00 UTC of 2 November 2025, forward at 07:00 UTC of 8 March 2026.
    moments = [datetime(2025, 11, 1, tzinfo=UTC) + timedelta(minutes=30) * number for number in range(48 * 130)]
    await log_and_sum(engine, [log_row(number, created_at=moment) for number, moment in enumerate(moments)], zone.key)
    start, end = datetime(2025, 11, 1, tzinfo=zone), datetime(2026, 3, 10, tzinfo=zone)
    days = await stats_service(engine, "America/New_York").timeseries(Bucket.DAY, start, end)
    assert len(days) == 129
    assert {day.start.astimezone(zone).date(): day.requests for day in days if day.requests != 48} == {
        date(2025, 11, 2): 50,
        date(2026, 3, 8): 46,
    }
    hours = await stats_service(engine, "America/New_York").timeseries(
        Bucket.HOUR, datetime(2025, 11, 2, tzinfo=zone), datetime(2025, 11, 3, tzinfo=zone)
    )
    assert [hour.requests for hour in hours] == [2] * 25


async def test_a_day_that_a_zone_leaves_out_is_empty(engine: AsyncEngine) -> None:
    # Samoa crossed the date line at the end of 29 December 2011.
    zone = ZoneInfo("Pacific/Apia")
    moments = [datetime(2011, 12, 29, 10, tzinfo=UTC) + timedelta(hours=1) * number for number in range(48)]
    await log_and_sum(engine, [log_row(number, created_at=moment) for number, moment in enumerate(moments)], zone.key)
    days = await stats_service(engine, "Pacific/Apia").timeseries(
        Bucket.DAY, datetime(2011, 12, 29, tzinfo=zone), datetime(2012, 1, 1, tzinfo=zone)
    )
    assert [day.requests for day in days] == [24, 0, 24]


async def test_left_out_bounds_show_the_present(engine: AsyncEngine) -> None:
    stats = stats_service(engine, "Asia/Shanghai")
    for bucket, number in ((Bucket.QUARTER_HOUR, 24), (Bucket.HOUR, 24), (Bucket.DAY, 30)):
        figures = await stats.timeseries(bucket)
        assert len(figures) == number
        assert figures[-1].start <= datetime.now(UTC)
        assert figures[-1].start > datetime.now(UTC) - timedelta(days=1, minutes=1)
        assert {each.requests for each in figures} == {0}


def test_as_many_are_shown_at_each_second_of_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = ZoneInfo("Asia/Shanghai")
    midnight = datetime(2026, 11, 28, 16, tzinfo=UTC)
    for second in (-1, 0, 1, 899, 900, 901, 3599, 3600):
        now = midnight + timedelta(seconds=second)
        monkeypatch.setattr(stats_module, "utc_now", lambda: now)  # noqa: B023 - it is asked in this round alone
        for bucket, number in ((Bucket.QUARTER_HOUR, 24), (Bucket.HOUR, 24), (Bucket.DAY, 30)):
            *starts, end = bucket_bounds(bucket, None, stats_module.present(), zone)
            assert len(starts) == number
            assert starts[-1] <= now < end


async def test_too_many_buckets_and_a_wrong_order_are_refused(engine: AsyncEngine) -> None:
    stats = stats_service(engine)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    hours = MAX_NUMBERS[Bucket.HOUR]
    assert len(await stats.timeseries(Bucket.HOUR, start, start + timedelta(hours=hours))) == hours
    for bucket, end in (
        (Bucket.HOUR, start + timedelta(hours=hours, seconds=1)),
        (Bucket.QUARTER_HOUR, start + timedelta(days=8)),
        (Bucket.DAY, start + timedelta(days=368)),
        (Bucket.DAY, datetime(2999, 1, 1, tzinfo=UTC)),
        (Bucket.DAY, start),
        (Bucket.DAY, start - timedelta(days=1)),
    ):
        with pytest.raises(InvalidRequest):
            await stats.timeseries(bucket, start, end)


def test_thirty_days_are_thirty_also_where_clocks_change() -> None:
    zone = ZoneInfo("America/New_York")
    for hour in range(366 * 24):
        end = datetime(2025, 10, 1, 4, 30, tzinfo=UTC) + timedelta(hours=hour)
        bounds = bucket_bounds(Bucket.DAY, None, end, zone)
        assert len(bounds) - 1 == 30, end
        assert bounds[-2] <= end < bounds[-1]
        assert len(bucket_bounds(Bucket.HOUR, None, end, zone)) - 1 == 24, end


async def test_a_year_is_read_month_by_month(engine: AsyncEngine) -> None:
    reads = 0

    async def read_and_count(work: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(engine, work)

    settings = StatisticsSettings.model_validate({"timezone": "America/New_York"})
    bounds = bucket_bounds(
        Bucket.DAY, datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), settings.timezone
    )
    figures = await read_buckets(read_and_count, Bucket.DAY, bounds, settings)
    assert [each.start for each in figures] == bounds[:-1]
    assert reads == 12


async def test_series_leave_connections_for_others(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, may_end = 0, asyncio.Event()

    async def read_for_long(*_: Any) -> list[Any]:
        nonlocal reading
        reading += 1
        await may_end.wait()
        return []

    monkeypatch.setattr(stats_module, "read_buckets", read_for_long)
    monkeypatch.setattr(stats_module, "SERIES_WAIT_SECONDS", 0.05)
    stats = stats_service(engine)
    running = [asyncio.create_task(stats.timeseries(Bucket.DAY)) for _ in range(5)]
    refused, waiting = await asyncio.wait(running, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
    while len(waiting) > stats_module.MAX_SERIES_AT_ONCE:
        refused, waiting = await asyncio.wait(running, timeout=0.05)
    assert reading == len(waiting) == stats_module.MAX_SERIES_AT_ONCE
    assert {type(task.exception()) for task in refused} == {ServerBusy}
    # The dashboard does not stand still meanwhile.
    dashboard = asyncio.create_task(stats.latest_series(Bucket.DAY))
    await asyncio.wait([dashboard], timeout=0.05)
    assert reading == stats_module.MAX_SERIES_AT_ONCE + 1
    may_end.set()
    assert await dashboard == []
    assert await asyncio.gather(*waiting) == [[], []]
    assert await stats.timeseries(Bucket.DAY) == []
