"""The views of `sql/init.sql` give the figures of the endpoints, at any hour of any zone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import day_in_utc, utc_now
from app.database.tables.statistics import CacheTotals, StatsDay
from app.services.request_log import calendar
from app.services.request_log.calendar import keep_calendar
from app.services.statistics.service import CacheEfficiency, DayStats
from app.services.statistics.shares import Days
from tests.support.statistics import log_and_sum, log_row, stats_service

# Zones, and a day on or before which their clocks change. In Santiago that is at midnight, so a day begins at one
# o'clock; Lord Howe's change by half an hour, Kathmandu's stand at a quarter.
NIGHTS = {
    "Asia/Shanghai": date(2025, 10, 10),
    "UTC": date(2025, 10, 10),
    "America/New_York": date(2025, 11, 2),
    "Europe/Berlin": date(2025, 10, 26),
    "America/Santiago": date(2025, 9, 7),
    "Australia/Lord_Howe": date(2025, 10, 5),
    "Asia/Kathmandu": date(2025, 10, 10),
    "Pacific/Kiritimati": date(2025, 10, 10),
}


@pytest.fixture(autouse=True)
async def calendar_of_its_own(engine: AsyncEngine) -> AsyncIterator[None]:
    """Tests share a database's calendar, but for these."""

    async def empty() -> None:
        async with engine.begin() as connection:
            await connection.execute(delete(StatsDay))

    await empty()
    yield
    await empty()


@asynccontextmanager
async def at(engine: AsyncEngine, moment: datetime) -> AsyncIterator[AsyncConnection]:
    """A connection for which it is `moment`."""
    async with engine.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        if engine.dialect.name == "sqlite":
            assert raw is not None
            await raw.create_function("datetime", 1, lambda _: f"{moment:%Y-%m-%d %H:%M:%S}")
        else:
            await connection.exec_driver_sql(f"SET TIMESTAMP = {int(moment.timestamp())}")
        try:
            yield connection
        finally:
            # The pool gives it to others.
            await connection.invalidate()


async def rows_of(connection: AsyncConnection, view: str) -> list[dict[str, Any]]:
    """The rows of a view in the types of the services' figures."""
    rows = await connection.execute(text(f"SELECT * FROM {view}"))
    return [{name: _plain(name, value) for name, value in row._mapping.items()} for row in rows]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if name in {"created_at", "last_hit_at", "first_request", "last_request"}:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.replace(tzinfo=UTC)
    return value


def of_view(figures: DayStats | CacheEfficiency) -> dict[str, Any]:
    """The figures of an endpoint that its view has too: all but the currency and those of similar photos."""
    return {
        name: value
        for name, value in asdict(figures).items()
        if name not in {"currency", "similar_hits", "saved_by_similar"}
    }


async def write_calendar(engine: AsyncEngine, zone: str, around: datetime) -> None:
    """What `keep_calendar` writes, at another time."""
    first = around.astimezone(ZoneInfo(zone)).date() - timedelta(days=4)
    days = [first + timedelta(days=number) for number in range(9)]
    bounds = {day: day_in_utc(day, ZoneInfo(zone)) for day in days}
    async with engine.begin() as connection:
        await connection.execute(delete(StatsDay))
        await connection.execute(
            insert(StatsDay),
            [{"day": day, "starts_at": start, "ends_at": end} for day, (start, end) in bounds.items()],
        )


async def compare_day(engine: AsyncEngine, zone: str, moment: datetime) -> int:
    """Assert that view and endpoint agree on the day of `moment`; return its requests."""
    stats = stats_service(engine, zone)
    today = moment.astimezone(ZoneInfo(zone)).date()
    async with at(engine, moment) as connection:
        [figures] = await rows_of(connection, "v_today")
        shares = await rows_of(connection, "v_category_distribution")
    assert figures == of_view(await stats.day(today)), (zone, moment)
    assert shares == [asdict(share) for share in await stats.category_distribution(Days(today, today))]
    return int(figures["total_requests"])


@pytest.mark.parametrize(("zone", "night"), NIGHTS.items())
async def test_views_and_endpoints_agree_at_any_hour(engine: AsyncEngine, zone: str, night: date) -> None:
    around, _ = day_in_utc(night, ZoneInfo(zone))
    quarters = [around + timedelta(minutes=15 * number) for number in range(-4 * 50, 4 * 50)]
    await log_and_sum(
        engine,
        [
            log_row(
                number,
                user_id=f"user-{number % 7}",
                ip_address=f"10.0.0.{number % 5}",
                from_cache=int(number % 3 == 0),
                category=("foods", "pets", "idcard")[number % 11 % 3],
                confidence=Decimal(number * 37 % 10_001) / 10_000,
                processing_time_ms=number * 7 % 100,
                created_at=moment,
            )
            for number, moment in enumerate(quarters)
        ],
        zone,
    )
    await write_calendar(engine, zone, around)
    for hour in range(-23, 25):
        moment = around + timedelta(hours=hour)
        assert await compare_day(engine, zone, moment) > 0
        if moment in {bound for day in (-1, 0, 1) for bound in day_in_utc(night + timedelta(days=day), ZoneInfo(zone))}:
            assert await compare_day(engine, zone, moment - timedelta(seconds=1)) > 0


async def test_every_midnight_belongs_to_the_day_that_begins(engine: AsyncEngine) -> None:
    zone = "Europe/Berlin"
    midnight, _ = day_in_utc(date(2026, 3, 29), ZoneInfo(zone))
    await log_and_sum(engine, [log_row(1, created_at=midnight)], zone)
    await write_calendar(engine, zone, midnight)
    assert await compare_day(engine, zone, midnight) == 1
    assert await compare_day(engine, zone, midnight - timedelta(seconds=1)) == 0
    assert await compare_day(engine, zone, midnight + timedelta(hours=22, minutes=59, seconds=59)) == 1
    assert await compare_day(engine, zone, midnight + timedelta(hours=23)) == 0


async def test_the_other_views_agree(filled: AsyncEngine) -> None:
    stats = stats_service(filled)
    async with filled.connect() as connection:
        [cache] = await rows_of(connection, "v_cache_efficiency")
        images = await rows_of(connection, "v_top_images")
        users = await rows_of(connection, "v_top_users")
    assert cache == of_view(await stats.cache_efficiency())
    assert images == [asdict(image) for image in await stats.top_images(10)]
    assert users == [asdict(user) for user in await stats.top_users(20)]
    assert (len(images), len(users)) == (10, 20)


async def test_views_round_half_up_as_the_endpoints_do(engine: AsyncEngine) -> None:
    """A database's own division is off by one in the last digit now and then."""
    async with engine.begin() as connection:
        await connection.execute(insert(CacheTotals), {"shard": 0, "images": 1, "hits": 0, "saved_micros": 1})
    stats = stats_service(engine)
    for images in (3, 7, 8, 200, 667, 1999, 8000):
        for hits in range(images, 3 * images, max(1, images // 20)):
            async with engine.begin() as connection:
                await connection.execute(
                    update(CacheTotals).values(images=images, hits=hits, saved_micros=hits * 10_001)
                )
                [cache] = await rows_of(connection, "v_cache_efficiency")
            assert cache == of_view(await stats.cache_efficiency()), (images, hits)


async def test_views_of_an_empty_database_are_zeros(engine: AsyncEngine) -> None:
    await keep_calendar(engine, ZoneInfo("Asia/Shanghai"))
    stats = stats_service(engine, "Asia/Shanghai")
    async with engine.connect() as connection:
        assert await rows_of(connection, "v_today") == [of_view(await stats.day(stats.today()))]
        assert await rows_of(connection, "v_cache_efficiency") == [of_view(await stats.cache_efficiency())]
        for view in ("v_category_distribution", "v_top_images", "v_top_users"):
            assert await rows_of(connection, view) == []


@pytest.mark.parametrize("before", [None, *NIGHTS])
async def test_the_calendar_has_one_today(engine: AsyncEngine, before: str | None) -> None:
    """Also after a change of the zone, of a year ago."""
    if before is not None:
        await write_calendar(engine, before, utc_now())
    for zone in NIGHTS:
        await keep_calendar(engine, ZoneInfo(zone))
        today = stats_service(engine, zone).today()
        async with engine.connect() as connection:
            for moment in (utc_now() + timedelta(hours=hours) for hours in (0, 12, 36)):
                days = select(StatsDay.day).where(StatsDay.starts_at <= moment, StatsDay.ends_at > moment)
                assert (await connection.scalars(days)).all() == [moment.astimezone(ZoneInfo(zone)).date()]
            last = await connection.scalar(select(func.max(StatsDay.day)))
        assert last is not None
        assert last - today > timedelta(days=365)


async def test_the_calendar_is_written_once(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when few of its days are left, or a rule of the zone has changed."""
    zone = ZoneInfo("Europe/Berlin")
    await keep_calendar(engine, zone)
    with monkeypatch.context() as patch:
        patch.setattr(calendar, "write", None)
        await keep_calendar(engine, zone)
    day = utc_now().astimezone(zone).date() + timedelta(days=30)
    for change in (
        update(StatsDay).where(StatsDay.day == day).values(starts_at=datetime(2000, 1, 1, tzinfo=UTC)),
        delete(StatsDay).where(StatsDay.day > day),
    ):
        async with engine.begin() as connection:
            await connection.execute(change)
        await keep_calendar(engine, zone)
        async with engine.connect() as connection:
            starts_at = await connection.scalar(select(StatsDay.starts_at).where(StatsDay.day == day))
            days = await connection.scalar(select(func.count()).select_from(StatsDay))
        assert starts_at == day_in_utc(day, zone)[0]
        assert days == calendar.DAYS_WRITTEN
