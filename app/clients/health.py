"""What a model client says of its state."""

from dataclasses import dataclass
from datetime import datetime

from app.clients.breaker import BreakerState


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """The state of a model client, from its last calls and a free probe; no secrets.

    `breaker` is the worst of all workers of the instance, and `open_breakers` in how many it is not closed; the rest is
    what this process has seen.
    """

    provider: str
    model: str
    available: bool
    breaker: BreakerState
    open_breakers: int
    last_success_at: datetime | None
    last_error_code: str | None
    last_error_at: datetime | None
