"""The visitors are counted again for another zone: a day at a time, by all processes that start."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.tables.statistics import StatsState
from app.errors import DatabaseUnavailable
from app.services.request_log import backfill
from app.services.request_log.backfill import recount_visitors
from app.services.request_log.record import RequestRecord
from app.services.request_log.service import RequestLogService
from tests.support.databases import recorder_on
from tests.support.records import record
from tests.support.rollups import DAYS, SHANGHAI, computed, figures, random_records, stats_on

NEW_YORK = ZoneInfo("America/New_York")
# New York is behind, so its days begin in the middle of Shanghai's.
MORE_DAYS = [date(2025, 10, 8), *DAYS, date(2025, 10, 12)]


async def counted_for_shanghai(engine: AsyncEngine, records: list[RequestRecord]) -> None:
    """Write `records` as a service with that zone does."""
    await recount_visitors(engine, SHANGHAI)
    await recorder_on(engine, zone=SHANGHAI.key).record(records)


async def assert_counted_for(engine: AsyncEngine, records: list[RequestRecord], zone: ZoneInfo) -> None:
    assert await figures(engine, MORE_DAYS, zone) == computed(records, MORE_DAYS, zone)


async def test_what_is_right_costs_one_select(engine: AsyncEngine) -> None:
    await recount_visitors(engine, SHANGHAI)
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    await recount_visitors(engine, SHANGHAI)
    assert [statement.split()[0] for statement in statements if statement != "BEGIN"] == ["SELECT"]


async def test_processes_that_start_together_share_the_work(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are no named locks, or where each node of a cluster has its own."""
    monkeypatch.setattr(backfill, "RETRY_SECONDS", 0.05)
    records = random_records(400)
    await counted_for_shanghai(engine, records)
    engines = [create_engine(Settings(database=_database(engine))) for _ in range(4)]
    for each in engines:
        event.listen(each.sync_engine, "before_cursor_execute", _without_named_locks, retval=True)
    try:
        await asyncio.gather(*(recount_visitors(each, NEW_YORK) for each in engines))
    finally:
        await asyncio.gather(*(each.dispose() for each in engines))
    await assert_counted_for(engine, records, NEW_YORK)


def _without_named_locks(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    return statement.replace("GET_LOCK(", "NO_SUCH_FUNCTION("), parameters


def _database(engine: AsyncEngine) -> Any:
    url = engine.url.set(drivername=engine.url.get_backend_name()).render_as_string(hide_password=False)
    return type(Settings().database).model_validate({"url": url})


@pytest.mark.parametrize("next_zone", [NEW_YORK, SHANGHAI])
@pytest.mark.parametrize("broken_step", [0, 1, 3])
async def test_what_was_interrupted_goes_on(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, broken_step: int, next_zone: ZoneInfo
) -> None:
    records = random_records(300)
    await counted_for_shanghai(engine, records)
    steps = 0
    real_step = backfill._count_next_day

    async def stop_in_the_middle(connection: AsyncConnection, zone: ZoneInfo) -> None:
        nonlocal steps
        steps += 1
        if steps > broken_step:
            raise KeyError
        await real_step(connection, zone)

    with monkeypatch.context() as patch:
        patch.setattr(backfill, "_count_next_day", stop_in_the_middle)
        with pytest.raises(KeyError):
            await recount_visitors(engine, NEW_YORK)
    # Started again, perhaps with the zone of before.
    await recount_visitors(engine, next_zone)
    await assert_counted_for(engine, records, next_zone)


async def test_a_lost_connection_is_no_reason_not_to_start(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as in a failover: a process that starts meanwhile goes on with the next connection."""
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no server to lose")
    monkeypatch.setattr(backfill, "RETRY_SECONDS", 0.01)
    records = random_records(50)
    await counted_for_shanghai(engine, records)
    lost = 0
    real_step = backfill._count_next_day

    async def lose_the_first(connection: AsyncConnection, zone: ZoneInfo) -> None:
        nonlocal lost
        if not lost:
            lost = await connection.scalar(text("SELECT CONNECTION_ID()"))
            async with engine.connect() as another:
                await another.execute(text(f"KILL {lost}"))
        await real_step(connection, zone)

    monkeypatch.setattr(backfill, "_count_next_day", lose_the_first)
    await recount_visitors(engine, NEW_YORK)
    assert lost
    await assert_counted_for(engine, records, NEW_YORK)


async def test_another_zone_has_other_visitors(engine: AsyncEngine) -> None:
    records = random_records(500)
    await counted_for_shanghai(engine, records[:400])
    for zone in (NEW_YORK, SHANGHAI, NEW_YORK):
        await recount_visitors(engine, zone)
        await assert_counted_for(engine, records[:400], zone)
    # It goes on from there, and counts no visitor a second time.
    await recorder_on(engine, zone=NEW_YORK.key).record(records[400:])
    await assert_counted_for(engine, records, NEW_YORK)


async def test_days_that_the_log_has_lost_keep_their_visitors(engine: AsyncEngine) -> None:
    start = datetime(2025, 10, 1, 0, 30, tzinfo=UTC)
    # 48 a day, each of another user.
    records = [
        record(number, user_id=f"user-{number}", created_at=start + timedelta(minutes=30) * number)
        for number in range(48 * 10)
    ]
    await recount_visitors(engine, ZoneInfo("UTC"))
    await recorder_on(engine).record(records)
    log = RequestLogService(engine, ZoneInfo("UTC"))
    cutoff = datetime(2025, 10, 4, 12, tzinfo=UTC)
    await log.delete_older_than(cutoff)
    await log.forget_visitors(cutoff)
    await recount_visitors(engine, NEW_YORK)
    users = {day: (await stats_on(engine, NEW_YORK).day(date(2025, 10, day))).unique_users for day in range(1, 12)}
    # Until the 4th as they were counted in UTC, from the 5th in New York, four hours behind; the last day is cut off.
    assert users == {1: 47, 2: 48, 3: 48, 4: 48, 5: 48, 6: 48, 7: 48, 8: 48, 9: 48, 10: 41, 11: 0}


async def test_the_zone_is_kept(engine: AsyncEngine) -> None:
    await counted_for_shanghai(engine, random_records(20))
    for zone in (SHANGHAI, NEW_YORK):
        await recount_visitors(engine, zone)
        async with engine.connect() as connection:
            rows = await connection.execute(select(StatsState.name, StatsState.value))
            assert {row.name: row.value for row in rows} == {"time_zone": zone.key}


async def test_what_cannot_be_counted_says_so(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "insert_visitors", lambda dialect, source: f"INSERT INTO no_such_table {source}")
    await counted_for_shanghai(engine, random_records(3))
    with pytest.raises(DatabaseUnavailable, match="visitors cannot be counted"):
        await recount_visitors(engine, NEW_YORK)
