"""Circuit breaker: after several failures in a row the model is left alone for a while, then tried with one call."""

import time
from collections.abc import Callable
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Counts consecutive failures of one model client.

    Closed lets every call pass. `failure_threshold` failures in a row open it for `open_seconds`; then one call at
    a time may try (half open), and its outcome closes or opens the circuit again.
    """

    def __init__(
        self, *, failure_threshold: int, open_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failure_threshold = failure_threshold
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._trial_running = False

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self.seconds_until_trial() > 0 else BreakerState.HALF_OPEN

    def seconds_until_trial(self) -> float:
        """Seconds until a call may be tried again; 0 when it may be tried now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_seconds - self._clock())

    def try_acquire(self) -> bool:
        """Say whether a call may start now. Each `True` is followed by one of the three `record_*` calls."""
        match self.state:
            case BreakerState.CLOSED:
                return True
            case BreakerState.OPEN:
                return False
            case BreakerState.HALF_OPEN:
                if self._trial_running:
                    return False
                self._trial_running = True
                return True

    def record_success(self) -> None:
        self._failures = 0
        self._opened_at = None
        self._trial_running = False

    def record_failure(self) -> None:
        self._failures += 1
        if self._trial_running or self._failures >= self._failure_threshold:
            self._opened_at = self._clock()
        self._trial_running = False

    def record_nothing(self) -> None:
        """The call ended without saying anything about the model's health (cancelled, or the picture was at fault)."""
        self._trial_running = False
