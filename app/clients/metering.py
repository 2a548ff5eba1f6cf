"""What a classification costs: each call of a model is noted, with its tokens and how it ended.

`ModelClient.classify` collects them in the meter of its caller. A client that makes several calls for one photo notes
each by `note_call`, and asks `may_call_again` before one that is not the first; for a client that notes nothing, an
attempt counts as one call.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from app.clock import utc_now


class CallOutcome(StrEnum):
    """How a call has ended: with a valid answer, with another one, with a refusal, or without an answer."""

    ANSWERED = "answered"
    INVALID = "invalid"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call of a model.

    `is_charged` is false where the provider does not ask for money: it answered with an error, or was not reached.
    `cached_input_tokens`, which cost less, and `cache_write_tokens`, which cost more, are part of `input_tokens`.
    `is_batched`: it was in a batch, whose price is lower.
    """

    outcome: CallOutcome
    is_charged: bool
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    called_at: datetime = field(default_factory=utc_now)
    is_batched: bool = False


class CallMeter:
    """The calls of one classification.

    Args:
        reserve: makes sure that so many charged calls can be paid, and says whether they can; left out, all can. One is
            paid for from the start.
    """

    def __init__(self, reserve: Callable[[int], Awaitable[bool]] | None = None) -> None:
        self.calls: list[ModelCall] = []
        self._reserve = reserve
        self._reserved = 1

    async def may_call(self) -> bool:
        """Say whether another call can be paid."""
        needed = sum(call.is_charged for call in self.calls) + 1
        if needed <= self._reserved or self._reserve is None:
            return True
        if not await self._reserve(needed):
            return False
        self._reserved = needed
        return True


_meter: ContextVar[CallMeter | None] = ContextVar("call_meter", default=None)


@contextmanager
def metered(meter: CallMeter) -> Iterator[None]:
    """Note the calls of this task in `meter` for the length of the block."""
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)


def note_call(call: ModelCall) -> None:
    """Note a call that has ended."""
    meter = _meter.get()
    if meter is not None:
        meter.calls.append(call)


def calls_noted() -> int:
    """Return how many calls are noted so far."""
    meter = _meter.get()
    return 0 if meter is None else len(meter.calls)


async def may_call_again() -> bool:
    """Say whether another call for the same photo can be paid; to be asked before a call that is not the first."""
    meter = _meter.get()
    return meter is None or await meter.may_call()
