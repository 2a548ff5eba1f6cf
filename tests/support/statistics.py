"""A log to count, and the service that counts it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import StatisticsSettings
from app.services.statistics.service import StatsService


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
