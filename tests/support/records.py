"""Log records."""

from datetime import UTC, datetime
from typing import Any

from app.services.request_log.record import RequestRecord

IMAGE = "a" * 64


def record(number: int, **values: Any) -> RequestRecord:
    fields: dict[str, Any] = {
        "request_id": f"req_{number}",
        "user_id": "user",
        "ip_address": "127.0.0.1",
        "image_hash": IMAGE,
        "image_size": None,
        "category": "foods",
        "confidence": 0.9,
        "from_cache": True,
        "processing_time_ms": 1,
        "created_at": datetime(2025, 10, 10, tzinfo=UTC),
        "model": "test-vision",
    }
    return RequestRecord(**{**fields, **values})
