"""The gauges of a process go on when one of them cannot be read."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.observability import metrics, process_gauges
from app.observability.process_gauges import ProcessGauges
from app.runtime.background import running
from tests.support.tasks import until


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_a_process_without_free_file_descriptors_shows_the_rest(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder is there and cannot be read: as /proc/self/statm when no file can be opened any more.
    monkeypatch.setattr(process_gauges, "_MEMORY", tmp_path)
    monkeypatch.setattr(process_gauges, "REFRESH_SECONDS", 0.01)
    process = ProcessGauges(
        engine, connections_limit=3, queued_rows=lambda: 0, queue_limit_rows=100, spooled_rows=lambda: 7
    )
    async with running(process.run(), name="gauges"):
        await asyncio.sleep(0.03)
        metrics.LOG_QUEUE_ROWS.set(-1)

        async def is_refreshed() -> bool:
            return bool(metrics.LOG_QUEUE_ROWS._value.get() == 0)

        await until(is_refreshed, "the queue is shown again")
