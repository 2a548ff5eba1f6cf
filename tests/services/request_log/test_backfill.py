"""A database that has a log already gets its rollups once: in steps, by whoever starts, and again for another zone."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, delete, event, insert, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.migrate import MIGRATIONS_DIR, migrate
from app.database.statements import execute
from app.database.tables.classification import CachedImage, StatsState, VisitorCount
from app.errors import DatabaseUnavailable
from app.services.request_log import backfill
from app.services.request_log import record as record_module
from app.services.request_log.backfill import build_rollups
from app.services.request_log.record import RequestRecord
from app.services.request_log.service import RequestLogService
from tests.support.databases import recorder_on
from tests.support.records import record
from tests.support.rollups import DAYS, SHANGHAI, computed, figures, random_records, rebuilt, stats_on, users_of

NEW_YORK = ZoneInfo("America/New_York")
# New York is behind, so its days begin in the middle of Shanghai's.
MORE_DAYS = [date(2025, 10, 8), *DAYS, date(2025, 10, 12)]


async def insert_log(engine: AsyncEngine, records: list[RequestRecord]) -> None:
    """Rows as a service without rollups has left them."""
    async with engine.begin() as connection:
        await execute(connection, record_module.insert_log(records))


def to_first_revision(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_DIR))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


async def test_a_database_of_the_first_revision_gets_everything(empty_database: Settings) -> None:
    engine = create_engine(empty_database)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(to_first_revision)
            assert not await connection.run_sync(lambda sync: inspect(sync).has_table("stats_state"))
        records = random_records(300)
        await insert_log(engine, records)
        async with engine.begin() as connection:
            rows = [{"image_hash": str(n), "hit_count": n + 1} for n in range(4)]
            values = {"category": "foods", "confidence": 0.9, "model_used": "m", "created_at": datetime.now(UTC)}
            await connection.execute(
                insert(CachedImage), [{**row, **values, "last_hit_at": values["created_at"]} for row in rows]
            )
        await migrate(engine, empty_database)
        await build_rollups(engine, SHANGHAI)
        assert await figures(engine) == computed(records, users_of(engine))
        efficiency = await stats_on(engine).cache_efficiency()
        assert (efficiency.total_cached_images, efficiency.total_hits, efficiency.max_hits) == (4, 10, 4)
    finally:
        await engine.dispose()


async def test_what_is_right_costs_one_select(engine: AsyncEngine) -> None:
    await build_rollups(engine, SHANGHAI)
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    await build_rollups(engine, SHANGHAI)
    assert [statement.split()[0] for statement in statements if statement != "BEGIN"] == ["SELECT"]


async def test_processes_that_start_together_share_the_work(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are no named locks, or where each node of a cluster has its own."""
    monkeypatch.setattr(backfill, "ROWS_PER_STEP", 37)
    monkeypatch.setattr(backfill, "RETRY_SECONDS", 0.05)
    records = random_records(400)
    await insert_log(engine, records)
    engines = [create_engine(Settings(database=_database(engine))) for _ in range(4)]
    for each in engines:
        event.listen(each.sync_engine, "before_cursor_execute", _without_named_locks, retval=True)
    try:
        await asyncio.gather(*(build_rollups(each, SHANGHAI) for each in engines))
    finally:
        await asyncio.gather(*(each.dispose() for each in engines))
    assert await figures(engine) == computed(records, users_of(engine))


def _without_named_locks(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    return statement.replace("GET_LOCK(", "NO_SUCH_FUNCTION("), parameters


def _database(engine: AsyncEngine) -> Any:
    url = engine.url.set(drivername=engine.url.get_backend_name()).render_as_string(hide_password=False)
    return type(Settings().database).model_validate({"url": url})


@pytest.mark.parametrize("broken_step", [1, 4, 8, 12])
async def test_what_was_interrupted_goes_on(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, broken_step: int
) -> None:
    monkeypatch.setattr(backfill, "ROWS_PER_STEP", 37)
    records = random_records(300)
    await insert_log(engine, records)
    steps = 0
    real_step = backfill._Builder.step

    async def stop_in_the_middle(self: Any, state: Any) -> None:
        nonlocal steps
        steps += 1
        await real_step(self, state)
        if steps == broken_step:
            raise KeyError

    monkeypatch.setattr(backfill._Builder, "step", stop_in_the_middle)
    with pytest.raises(KeyError):
        await build_rollups(engine, SHANGHAI)
    # Started again, perhaps with another zone.
    await build_rollups(engine, NEW_YORK)
    assert await figures(engine, MORE_DAYS, NEW_YORK) == computed(records, users_of(engine), MORE_DAYS, NEW_YORK)


async def test_a_lost_connection_is_no_reason_not_to_start(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as in a failover: whoever starts meanwhile goes on with the next connection."""
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no server to lose")
    monkeypatch.setattr(backfill, "RETRY_SECONDS", 0.01)
    records = random_records(50)
    await insert_log(engine, records)
    lost = 0
    real_step = backfill._Builder.step

    async def lose_the_first(self: Any, state: Any) -> None:
        nonlocal lost
        if not lost:
            lost = await self._connection.scalar(text("SELECT CONNECTION_ID()"))
            async with engine.connect() as another:
                await another.execute(text(f"KILL {lost}"))
        await real_step(self, state)

    monkeypatch.setattr(backfill._Builder, "step", lose_the_first)
    await build_rollups(engine, SHANGHAI)
    assert lost
    assert await figures(engine) == computed(records, users_of(engine))


async def test_another_zone_has_other_visitors(engine: AsyncEngine) -> None:
    records = random_records(500)
    await build_rollups(engine, SHANGHAI)
    await recorder_on(engine, zone=SHANGHAI.key).record(records[:400])
    for zone in (NEW_YORK, SHANGHAI, NEW_YORK):
        await build_rollups(engine, zone)
        expected = computed(records[:400], users_of(engine), MORE_DAYS, zone)
        assert await figures(engine, MORE_DAYS, zone) == expected
    # It goes on from there, and counts nobody a second time.
    await recorder_on(engine, zone=NEW_YORK.key).record(records[400:])
    assert await figures(engine, MORE_DAYS, NEW_YORK) == computed(records, users_of(engine), MORE_DAYS, NEW_YORK)


async def test_days_that_the_log_has_lost_keep_their_visitors(engine: AsyncEngine) -> None:
    start = datetime(2025, 10, 1, 0, 30, tzinfo=UTC)
    # 48 a day, each of another user.
    records = [
        record(number, user_id=f"user-{number}", created_at=start + timedelta(minutes=30) * number)
        for number in range(48 * 10)
    ]
    await build_rollups(engine, ZoneInfo("UTC"))
    await recorder_on(engine).record(records)
    log = RequestLogService(engine, ZoneInfo("UTC"))
    cutoff = datetime(2025, 10, 4, 12, tzinfo=UTC)
    await log.delete_older_than(cutoff)
    await log.forget_visitors(cutoff)
    await build_rollups(engine, NEW_YORK)
    users = {day: (await stats_on(engine, NEW_YORK).day(date(2025, 10, day))).unique_users for day in range(1, 12)}
    # Until the 4th as they were counted in UTC, from the 5th in New York, four hours behind; the last day is cut off.
    assert users == {1: 47, 2: 48, 3: 48, 4: 48, 5: 48, 6: 48, 7: 48, 8: 48, 9: 48, 10: 41, 11: 0}


async def test_emptying_the_state_builds_everything_anew(engine: AsyncEngine) -> None:
    records = random_records(200)
    await build_rollups(engine, SHANGHAI)
    await recorder_on(engine, zone=SHANGHAI.key).record(records)
    async with engine.begin() as connection:
        await connection.execute(delete(VisitorCount))
    await rebuilt(engine)
    assert await figures(engine) == computed(records, users_of(engine))
    async with engine.connect() as connection:
        state = {row.name: row.value for row in await connection.execute(select(StatsState.name, StatsState.value))}
    assert state == {"totals": "complete", "time_zone": SHANGHAI.key}


async def test_what_cannot_be_built_says_so(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backfill._PERIOD_START, "sqlite", "NO_SUCH_COLUMN")
    monkeypatch.setitem(backfill._PERIOD_START, "mysql", "NO_SUCH_COLUMN")
    await insert_log(engine, random_records(3))
    with pytest.raises(DatabaseUnavailable, match="statistics cannot be built"):
        await build_rollups(engine, SHANGHAI)
