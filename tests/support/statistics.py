"""A log to count, and the service that counts it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import StatisticsSettings
from app.services.request_log.record import RequestRecord
from app.services.statistics.service import StatsService
from tests.support.databases import recorder_on

# SQLite takes at most 32 766 values in a statement.
ROWS_AT_ONCE = 500


def stats_service(engine: AsyncEngine, zone: str = "UTC", cost: str = "0.01") -> StatsService:
    return StatsService(
        engine,
        StatisticsSettings.model_validate({"timezone": zone, "cost_per_call": cost}),
    )


def log_row(number: int, **values: Any) -> dict[str, Any]:
    return {
        "request_id": f"req_{number}",
        "user_id": None,
        "ip_address": None,
        "image_hash": "a" * 64,
        "image_size": None,
        "category": "foods",
        "confidence": Decimal("0.5"),
        "from_cache": 0,
        "processing_time_ms": 10,
        "created_at": datetime(2025, 10, 10, 12, tzinfo=UTC),
        **values,
    }


async def log_and_sum(engine: AsyncEngine, rows: Sequence[dict[str, Any]], zone: str = "UTC") -> None:
    """Write the requests of `log_row` as the service does: into the log and into the rollups."""
    recorder = recorder_on(engine, zone=zone)
    records = [RequestRecord(**{**row, "confidence": float(row["confidence"])}, of_shared_cache=False) for row in rows]
    for first in range(0, len(records), ROWS_AT_ONCE):
        await recorder.record(records[first : first + ROWS_AT_ONCE])
