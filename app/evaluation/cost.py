"""What asking will cost, told before the first paid call."""

from collections.abc import Collection

from app.clients.thresholds import Thresholds
from app.evaluation.answers import Answer
from app.evaluation.candidates import Candidate
from app.services.spending.prices import MICROS


def expected_micros(candidate: Candidate, known: Collection[Answer], photos: int) -> float:
    """Return what so many photos will cost, in millionths of CURRENCY: as those asked before, else by estimate."""
    if candidate.price is None:
        return 0.0
    spent = sum(candidate.price.cost_micros(call.as_call()) for answer in known for call in answer.calls)
    each = spent / len(known) if known else candidate.expected_cost_micros()
    return photos * each


def costs_of_cascade(
    candidate: Candidate, known: Collection[Answer], thresholds: Thresholds
) -> tuple[float, float] | None:
    """Return what a thousand new photos cost in CURRENCY where the local model answers a part, and where it does not.

    Args:
        candidate: the model that answers the rest; None is returned where it costs nothing.
        known: what it was asked before.
        thresholds: say how large the part is.
    """
    if candidate.price is None:
        return None
    alone = expected_micros(candidate, known, 1000) / MICROS
    return alone * (1 - thresholds.answered.share), alone
