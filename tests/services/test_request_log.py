"""Retention deletes what is older than it is kept, in batches, and nothing else."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.tables import RequestLog
from app.services import request_log
from app.services.request_log import RequestLogService
from tests.services.test_stats import log_row

UTC_ZONE = ZoneInfo("UTC")
NOW = datetime(2025, 10, 10, 12, tzinfo=UTC)


async def test_old_rows_are_deleted_in_batches(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "DELETE_BATCH_ROWS", 7)
    monkeypatch.setattr(request_log, "DELETE_PAUSE_SECONDS", 0)
    rows = [log_row(number, created_at=NOW - timedelta(days=number)) for number in range(100)]
    async with engine.begin() as connection:
        await connection.execute(insert(RequestLog), rows)
    assert await RequestLogService(engine, UTC_ZONE).delete_older_than(NOW - timedelta(days=30)) == 69
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(RequestLog)) == 31
        assert await connection.scalar(select(func.min(RequestLog.created_at))) == NOW - timedelta(days=30)
    assert await RequestLogService(engine, UTC_ZONE).delete_older_than(NOW - timedelta(days=30)) == 0
