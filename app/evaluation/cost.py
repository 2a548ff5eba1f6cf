"""What asking will cost, told before the first paid call."""

from collections.abc import Collection

from app.evaluation.answers import Answer
from app.evaluation.candidates import Candidate


def expected_micros(candidate: Candidate, known: Collection[Answer], photos: int) -> float:
    """Return what so many photos will cost, in millionths of CURRENCY: as those asked before, else by estimate."""
    if candidate.price is None:
        return 0.0
    spent = sum(candidate.price.cost_micros(call.as_call()) for answer in known for call in answer.calls)
    each = spent / len(known) if known else candidate.expected_cost_micros()
    return photos * each
