"""A log to count, and the service that counts it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.metering import CallOutcome
from app.config.settings import StatisticsSettings
from app.database.pipeline import run
from app.services.request_log.record import RequestRecord
from app.services.spending.ledger import Ledger, LedgerRow
from app.services.statistics.service import StatsService
from tests.support.databases import recorder_on

# SQLite takes at most 32 766 values in a statement.
ROWS_AT_ONCE = 500


def stats_service(engine: AsyncEngine, zone: str = "UTC") -> StatsService:
    return StatsService(engine, StatisticsSettings.model_validate({"timezone": zone}), currency="CNY")


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
        "model": "test-vision",
        **values,
    }


async def log_and_sum(
    engine: AsyncEngine, rows: Sequence[dict[str, Any]], zone: str = "UTC", cost_micros: int = 10_000
) -> None:
    """Write the requests of `log_row` as the service does: into the log, the ledger and the sums of both.

    Each that was no hit has asked the model, at `cost_micros`.
    """
    recorder = recorder_on(engine, zone=zone)
    records = [
        RequestRecord(
            **{**row, "confidence": float(row["confidence"])},
            saved_micros=cost_micros if row["from_cache"] else 0,
            of_shared_cache=False,
        )
        for row in rows
    ]
    ledger = Ledger(engine.dialect.name)
    for first in range(0, len(records), ROWS_AT_ONCE):
        some = records[first : first + ROWS_AT_ONCE]
        await recorder.record(some)
        calls = [
            ledger_row(each.request_id, called_at=each.created_at, cost_micros=cost_micros, user_id=each.user_id)
            for each in some
            if not each.from_cache
        ]
        if calls:
            await run(engine, ledger.statements(calls), writes=True)


def ledger_row(request_id: str, **values: Any) -> LedgerRow:
    """A call without tokens that cost a cent, when nothing else is said."""
    fields: dict[str, Any] = {
        "request_id": request_id,
        "number": 0,
        "called_at": datetime(2025, 10, 10, 12, tzinfo=UTC),
        "provider": "custom",
        "model": "test-vision",
        "input_tokens": 0,
        "cached_input_tokens": 0,
        "output_tokens": 0,
        "cost_micros": 10_000,
        "outcome": CallOutcome.ANSWERED,
        "api_key_id": None,
        "account_id": None,
        "user_id": None,
    }
    return LedgerRow(**(fields | values))
