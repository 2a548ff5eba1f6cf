"""A process is seen to live as long as it beats, and judges others only while it beats itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import ColumnElement, insert, literal, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database import heartbeat as heartbeat_module
from app.database import transactions
from app.database.engine import create_engine
from app.database.heartbeat import ROWS_KEPT_SECONDS, STALLED_SECONDS, Heartbeat
from app.database.pipeline import DuplicateRowError
from app.database.statements import Statement, seconds_from_now
from app.database.tables.heartbeat import ProcessHeartbeat
from app.database.tables.statistics import StatsState
from tests.support.databases import TestDatabase
from tests.support.silence import way_to

PATIENCE_SECONDS = 180
CLAIM = Statement("INSERT INTO stats_state (name, value) VALUES (%s, %s)", ("claim", "ours"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_module, "RENEW_SECONDS", 0.05)


@asynccontextmanager
async def process(engine: AsyncEngine) -> AsyncIterator[Heartbeat]:
    heartbeat = Heartbeat(engine)
    try:
        yield heartbeat
    finally:
        await heartbeat.close()


async def beats(engine: AsyncEngine) -> dict[str, Any]:
    """Return when each process has beaten last."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(ProcessHeartbeat.process_id, ProcessHeartbeat.beat_at))
        return {row.process_id: row.beat_at for row in rows}


async def put_row(engine: AsyncEngine, process_id: str, *, age_seconds: int) -> None:
    beat_at: ColumnElement[Any] = literal_column(seconds_from_now(engine.dialect.name, -age_seconds))
    async with engine.begin() as connection:
        await connection.execute(insert(ProcessHeartbeat).values(process_id=process_id, beat_at=beat_at))


async def age(engine: AsyncEngine, seconds: int) -> None:
    beat_at: ColumnElement[Any] = literal_column(seconds_from_now(engine.dialect.name, -seconds))
    async with engine.begin() as connection:
        await connection.execute(update(ProcessHeartbeat).values(beat_at=beat_at))


async def is_stalled(engine: AsyncEngine, process_id: str) -> bool:
    async with engine.connect() as connection:
        return bool(await connection.scalar(select(Heartbeat(engine).is_stalled(literal(process_id)))))


async def until(happened: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_process_without_a_fresh_row_is_stalled(engine: AsyncEngine) -> None:
    await put_row(engine, "a" * 32, age_seconds=0)
    await put_row(engine, "b" * 32, age_seconds=STALLED_SECONDS + 1)
    assert not await is_stalled(engine, "a" * 32)
    assert await is_stalled(engine, "b" * 32)
    assert await is_stalled(engine, "c" * 32)


async def test_it_beats_only_while_it_is_held(engine: AsyncEngine, fast: None) -> None:
    async with process(engine) as heartbeat:
        with heartbeat.hold():
            with heartbeat.hold():
                pass
            await until(lambda: _has_row(engine, heartbeat))
            first = (await beats(engine))[heartbeat.process_id]
            await until(lambda: _is_later(engine, heartbeat, first))
            second = (await beats(engine))[heartbeat.process_id]
            await until(lambda: _is_later(engine, heartbeat, second))
        # A beat may be under way.
        await asyncio.sleep(0.5)
        before = await beats(engine)
        await asyncio.sleep(0.5)
        assert await beats(engine) == before
    assert await beats(engine) == {}


async def _has_row(engine: AsyncEngine, heartbeat: Heartbeat) -> bool:
    return heartbeat.process_id in await beats(engine)


async def _is_later(engine: AsyncEngine, heartbeat: Heartbeat, before: Any) -> bool:
    return bool((await beats(engine))[heartbeat.process_id] > before)


async def test_an_owner_is_never_seen_without_a_beat(engine: AsyncEngine) -> None:
    async with process(engine) as heartbeat:
        with heartbeat.hold():
            with pytest.raises(DuplicateRowError):
                await heartbeat.write([CLAIM, CLAIM])
            assert await beats(engine) == {}
            rows = await heartbeat.write([CLAIM, Statement("SELECT value FROM stats_state WHERE name = 'claim'")])
            assert [list(each) for each in rows] == [[], [("ours",)]]
            assert list(await beats(engine)) == [heartbeat.process_id]


async def test_claims_in_a_row_do_not_wait_for_each_others_beat(engine: AsyncEngine) -> None:
    async with process(engine) as heartbeat:
        with heartbeat.hold():
            await heartbeat.write([])
            first = await beats(engine)
            await heartbeat.write([CLAIM])
            assert await beats(engine) == first
            async with engine.connect() as connection:
                assert await connection.scalar(select(StatsState.value).where(StatsState.name == "claim")) == "ours"


async def test_a_process_that_has_just_begun_judges_no_other(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(heartbeat_module, "time", SimpleNamespace(monotonic=lambda: now))
    async with process(engine) as heartbeat:
        assert not heartbeat.can_judge
        for _ in range(3):
            await heartbeat.write([])
            assert not heartbeat.can_judge
            now += 1
        await heartbeat.write([])
        assert heartbeat.can_judge


@asynccontextmanager
async def outage(engine: AsyncEngine) -> AsyncIterator[None]:
    """No process can beat."""
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE process_heartbeat RENAME TO hidden")
    try:
        yield
    finally:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE hidden RENAME TO process_heartbeat")


async def test_after_an_outage_the_owners_that_live_come_first(
    engine: AsyncEngine, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is old then. Nothing follows from that for as long as a process needs to renew its own."""
    monkeypatch.setattr(heartbeat_module, "MAX_GAP_SECONDS", 1.0)
    async with process(engine) as heartbeat:

        async def judges() -> bool:
            return heartbeat.can_judge

        async def judges_no_other() -> bool:
            return not heartbeat.can_judge

        with heartbeat.hold():
            await until(judges)
            async with outage(engine):
                await until(judges_no_other)
            await age(engine, 10)

            async def has_renewed() -> bool:
                return not await is_stalled(engine, heartbeat.process_id)

            await until(has_renewed)
            assert not heartbeat.can_judge
            await until(judges)


async def test_rows_of_processes_long_gone_are_deleted(engine: AsyncEngine, fast: None) -> None:
    await put_row(engine, "a" * 32, age_seconds=ROWS_KEPT_SECONDS + 60)
    await put_row(engine, "b" * 32, age_seconds=ROWS_KEPT_SECONDS - 60)
    async with process(engine) as heartbeat:
        with heartbeat.hold():

            async def is_gone() -> bool:
                return "a" * 32 not in await beats(engine)

            await until(is_gone)
            assert set(await beats(engine)) == {"b" * 32, heartbeat.process_id}


async def test_connections_that_went_silent_are_replaced(
    mysql_database: TestDatabase, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover: the server that was connected says nothing any more."""
    monkeypatch.setattr(heartbeat_module, "BEAT_TIMEOUT_SECONDS", 2.0)
    async with way_to(mysql_database.url) as way:
        engine = create_engine(Settings(database=DatabaseSettings.model_validate({"url": way.url})))
        direct = create_engine(Settings(database=mysql_database.settings))
        try:
            async with process(engine) as heartbeat:
                await asyncio.gather(*(heartbeat.write([]) for _ in range(4)))
                way.silence()
                before = (await beats(direct))[heartbeat.process_id]
                started = time.monotonic()
                with heartbeat.hold():
                    await until(lambda: _is_later(direct, heartbeat, before))
                # One attempt was given up; each of four silent connections would have cost as much.
                attempt_seconds = transactions.ATTEMPT_SHARE * heartbeat_module.BEAT_TIMEOUT_SECONDS
                assert time.monotonic() - started < 4 * attempt_seconds
        finally:
            await engine.dispose()
            await direct.dispose()


async def test_a_pool_of_one_connection_is_enough(migrated_database: DatabaseSettings, engine: AsyncEngine) -> None:
    database = migrated_database.model_copy(update={"pool_size": 1, "max_overflow": 0})
    small = create_engine(Settings(database=database))
    try:
        async with process(small) as heartbeat:
            with heartbeat.hold():
                await until(lambda: _has_row(small, heartbeat))
    finally:
        await small.dispose()

    async def has_gone() -> bool:
        # A deletion that got no answer in time is not waited for.
        return await beats(engine) == {}

    await until(has_gone)
