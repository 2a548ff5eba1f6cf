"""What is kept of one answered request."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One answered request, as `request_log` keeps it; `from_cache` also counts a hit of the image."""

    request_id: str
    user_id: str | None
    ip_address: str | None
    image_hash: str
    image_size: int | None
    category: str
    confidence: float
    from_cache: bool
    processing_time_ms: int
    created_at: datetime
