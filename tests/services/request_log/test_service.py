"""Retention deletes what is older than it is kept, in batches, and nothing else; no figure changes by it."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.database import retention
from app.database.tables.request_log import RequestLog
from app.database.tables.statistics import Visitor
from app.runtime.background import running
from app.services.request_log.service import RequestLogService
from tests.support.databases import recorder_on
from tests.support.records import record
from tests.support.rollups import DAYS, SHANGHAI, figures, random_records
from tests.support.statistics import log_row

UTC_ZONE = ZoneInfo("UTC")
NOW = datetime(2025, 10, 10, 12, tzinfo=UTC)


async def test_old_rows_are_deleted_in_batches(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "DELETE_BATCH_ROWS", 7)
    monkeypatch.setattr(retention, "DELETE_PAUSE_SECONDS", 0)
    rows = [log_row(number, created_at=NOW - timedelta(days=number)) for number in range(100)]
    async with engine.begin() as connection:
        await connection.execute(insert(RequestLog), rows)
    assert await RequestLogService(engine, UTC_ZONE).delete_older_than(NOW - timedelta(days=30)) == 69
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(RequestLog)) == 31
        assert await connection.scalar(select(func.min(RequestLog.created_at))) == NOW - timedelta(days=30)
    assert await RequestLogService(engine, UTC_ZONE).delete_older_than(NOW - timedelta(days=30)) == 0


async def seen_days(engine: AsyncEngine) -> set[date]:
    async with engine.connect() as connection:
        return set(await connection.scalars(select(Visitor.day)))


async def test_past_figures_outlive_the_log(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "DELETE_BATCH_ROWS", 7)
    monkeypatch.setattr(retention, "DELETE_PAUSE_SECONDS", 0)
    await recorder_on(engine, zone=SHANGHAI.key).record(random_records(300))
    before = await figures(engine)
    assert await seen_days(engine) == set(DAYS)

    service = RequestLogService(engine, SHANGHAI)
    middle = datetime(2025, 10, 10, 4, tzinfo=UTC)
    await service.delete_older_than(middle)
    assert await service.forget_visitors(middle) > 7
    assert await seen_days(engine) == {DAYS[2]}
    await service.delete_older_than(middle + timedelta(days=9))
    await service.forget_visitors(middle + timedelta(days=9))
    assert await seen_days(engine) == set()
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(RequestLog)) == 0
    assert await figures(engine) == before


async def test_the_days_that_are_still_counted_are_not_forgotten(engine: AsyncEngine) -> None:
    now = utc_now()
    recorder = recorder_on(engine)
    await recorder.record([record(number, created_at=now - timedelta(days=number)) for number in range(4)])
    await RequestLogService(engine, UTC_ZONE).forget_visitors(now + timedelta(days=3))
    # The day may have changed since.
    assert await seen_days(engine) <= {now.date(), now.date() - timedelta(days=1)}
    assert now.date() in await seen_days(engine)


async def test_retention_shortens_the_log_and_forgets_its_visitors(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FIRST_RUN_MAX_SECONDS", 0)
    now = utc_now()
    await recorder_on(engine).record([record(number, created_at=now - timedelta(days=number)) for number in range(20)])
    async with running(RequestLogService(engine, UTC_ZONE).keep_short(5), name="retention"), asyncio.timeout(120):
        while min(await seen_days(engine)) < now.date() - timedelta(days=5):  # noqa: ASYNC110 - a table tells of no change
            await asyncio.sleep(0.01)
    async with engine.connect() as connection:
        oldest = await connection.scalar(select(func.min(RequestLog.created_at)))
    assert oldest is not None
    assert oldest >= now - timedelta(days=5)
