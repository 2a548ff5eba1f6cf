"""Circuit breaker: when too large a share of pictures fails, the model is left alone for a while, then tried with one.

It counts pictures, not calls: one that the model cannot take, however often it is sent, says nothing about the others.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import StrEnum

from app.observability import metrics
from app.observability.metrics_multiprocess import gauges_of_instance

# Of the last pictures, so many at most are judged by, and none after so long: an outage is seen within a few calls
# although there were many good ones before it.
WINDOW_PICTURES = 20
WINDOW_SECONDS = 120.0
# Of the pictures in the window, this share has to fail.
OPEN_SHARE = 0.5


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Judges one model client by how its last different pictures ended.

    Closed lets every call pass. It opens when at least `failure_threshold` pictures and half of those in the window
    have failed, for `open_seconds` or as long as the provider asks; then one call at a time may try (half open), and
    its outcome closes or opens the circuit again.
    """

    def __init__(
        self, *, failure_threshold: int, open_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failure_threshold = failure_threshold
        self._open_seconds = open_seconds
        self._clock = clock
        # Picture -> when it ended, and whether it failed; the last one to end stands last.
        self._outcomes: OrderedDict[Hashable, tuple[float, bool]] = OrderedDict()
        self._open_until: float | None = None
        self._trial_running = False

    @property
    def state(self) -> BreakerState:
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self.seconds_until_trial() > 0 else BreakerState.HALF_OPEN

    def seconds_until_trial(self) -> float:
        """Seconds until a call may be tried again; 0 when it may be tried now."""
        if self._open_until is None:
            return 0.0
        return max(0.0, self._open_until - self._clock())

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

    def record_success(self, picture: Hashable) -> None:
        """The model has answered about `picture`, by which it is known again; an open circuit closes."""
        if self._open_until is not None:
            self._outcomes.clear()
            self._open_until = None
        self._note(picture, failed=False)
        self._trial_running = False

    def record_failure(self, picture: Hashable, *, open_seconds: float | None = None) -> None:
        """The model has failed with `picture`; `open_seconds` is how long its provider asks to be left alone."""
        self._note(picture, failed=True)
        failed = sum(has_failed for _, has_failed in self._outcomes.values())
        is_outage = failed >= self._failure_threshold and failed >= OPEN_SHARE * len(self._outcomes)
        if self._trial_running or (is_outage and self._open_until is None):
            pause = self._open_seconds if open_seconds is None else open_seconds
            self._open_until = self._clock() + pause
        self._trial_running = False

    def record_nothing(self) -> None:
        """The call ended without saying anything about the model's health (cancelled, or the picture was at fault)."""
        self._trial_running = False

    def _note(self, picture: Hashable, *, failed: bool) -> None:
        now = self._clock()
        self._outcomes[picture] = (now, failed)
        self._outcomes.move_to_end(picture)
        while len(self._outcomes) > WINDOW_PICTURES or next(iter(self._outcomes.values()))[0] < now - WINDOW_SECONDS:
            self._outcomes.popitem(last=False)


def show_breaker(breaker: CircuitBreaker, provider: str, model: str) -> None:
    """Show the state of this process' breaker of a model to the other ones, and to `/metrics`."""
    is_closed = breaker.state is BreakerState.CLOSED
    metrics.MODEL_BREAKER_OPEN.labels(provider, model).set(not is_closed)
    open_until = 0.0 if is_closed else time.time() + breaker.seconds_until_trial()
    metrics.MODEL_BREAKER_OPEN_UNTIL.labels(provider, model).set(open_until)


def worst_breaker(own: BreakerState, provider: str, model: str) -> tuple[BreakerState, int]:
    """Return the worst state of a model's breakers in all workers of this instance, and how many are not closed.

    Args:
        own: the state in this process, which is all there is where none shares a folder with it.
        provider: with `model`, what the breakers are shown under.
        model: its name.
    """
    shown = gauges_of_instance({"provider": provider, "model": model})
    if shown is None:
        return own, int(own is not BreakerState.CLOSED)
    number = round(shown.get(metrics.BREAKER_OPEN, 0.0))
    if not number:
        return BreakerState.CLOSED, 0
    is_open = shown.get(metrics.BREAKER_OPEN_UNTIL, 0.0) > time.time()
    return BreakerState.OPEN if is_open else BreakerState.HALF_OPEN, number
