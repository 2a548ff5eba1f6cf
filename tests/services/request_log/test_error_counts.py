"""Errors are counted once, by the process that meets them, and wait where the database is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.tables.statistics import ErrorPeriod
from app.runtime.background import running
from app.services.request_log import error_counts
from app.services.request_log.error_counts import ErrorCounts, count_error
from app.services.statistics.timeseries import Bucket
from tests.support.statistics import stats_service
from tests.support.tasks import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_counts, "WRITE_SECONDS", 0.01)
    error_counts._counts.clear()


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[None]:
    counts = ErrorCounts(engine)
    try:
        async with running(counts.run(), name="error-counts"):
            yield
    finally:
        await counts.close()


async def written(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(select(func.sum(ErrorPeriod.errors))) or 0)


async def until_written(engine: AsyncEngine, errors: int) -> None:
    async def are_written() -> bool:
        return await written(engine) == errors

    await until(are_written, f"{errors} errors are in the table")


async def test_errors_are_added_up(engine: AsyncEngine) -> None:
    stats = stats_service(engine)
    async with writing(engine), writing(engine):
        for _ in range(3):
            count_error("model_timeout")
        count_error("internal_error")
        await until_written(engine, 4)
        count_error("model_timeout")
        await until_written(engine, 5)
    today = datetime.now(UTC)
    # Midnight may pass while this runs.
    days = [(today - timedelta(days=1)).date(), today.date()]
    counts = [await stats.errors(day) for day in days]
    assert sum(each.get("model_timeout", 0) for each in counts) == 4
    assert sum(each.get("internal_error", 0) for each in counts) == 1
    assert ["model_timeout", "internal_error"] in [list(each) for each in counts]
    for bucket in Bucket:
        assert sum(figures.errors or 0 for figures in await stats.timeseries(bucket)) == 5
    series = await stats.timeseries(Bucket.DAY, today - timedelta(days=900), today - timedelta(days=600))
    assert {figures.errors for figures in series} == {0}


async def test_what_is_left_is_written_at_the_end(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_counts, "WRITE_SECONDS", 60.0)
    async with writing(engine):
        count_error("server_busy")
        await asyncio.sleep(0.01)
        assert await written(engine) == 0
    assert await written(engine) == 1


async def test_errors_wait_for_a_database_that_is_away(settings: Settings, engine: AsyncEngine) -> None:
    nowhere = Settings(data_dir=settings.data_dir / "missing" / "folder")
    away = create_engine(nowhere)
    try:
        async with writing(away):
            count_error("database_unavailable")
            await asyncio.sleep(0.1)
        assert sum(error_counts._counts.values()) == 1
    finally:
        await away.dispose()
    async with writing(engine):
        count_error("database_unavailable")
        await until_written(engine, 2)
    assert error_counts._counts == {}


async def test_an_error_that_nobody_foresaw_is_tried_again(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = 0

    def upsert(*_: object, **__: object) -> str:
        nonlocal broken
        broken += 1
        return "NONSENSE"

    with monkeypatch.context() as patch:
        patch.setattr(error_counts, "upsert_sums", upsert)
        async with writing(engine):
            count_error("model_timeout")

            async def were_tried() -> bool:
                return broken > 1

            await until(were_tried, "a second try")
            patch.undo()
            await until_written(engine, 1)


async def test_no_more_is_kept_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_counts, "MAX_COUNTS", 2)
    for code in ("a", "b", "c", "a"):
        count_error(code)
    assert {code: count for (_, code), count in error_counts._counts.items()} == {"a": 2, "b": 1}
    error_counts._counts.clear()
