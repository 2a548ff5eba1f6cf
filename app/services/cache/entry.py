"""What the cache says of one photo, wherever it is kept: in memory, in Redis, in the database."""

from dataclasses import dataclass

from app.categories import Category
from app.clients.base import ModelResult
from app.services.request_log.record import Answer, Caller, Similar

CONFIDENCE_DIGITS = 4
# The model of entries that an operator has corrected, and of those that enough users have: no model replaces them.
MANUAL_MODEL = "manual"
FEEDBACK_MODEL = "feedback"
PEOPLE = (MANUAL_MODEL, FEEDBACK_MODEL)


@dataclass(frozen=True, slots=True)
class CachedResult:
    """A classification as it is kept.

    `confidence` is 0..1 with four decimals. `model` has given it, or is one of PEOPLE. `cost_micros` is what the calls
    that made it cost, in millionths of CURRENCY: each hit saves as much. `is_stale` is true only of what memory answers
    while the database is away.
    """

    category: Category
    confidence: float
    description: str | None
    model: str
    cost_micros: int = 0
    is_stale: bool = False


def entry_of(result: ModelResult, model: str, cost_micros: int) -> CachedResult:
    """Return what is kept of a model's answer, which has cost so much."""
    confidence = round(result.confidence, CONFIDENCE_DIGITS)
    return CachedResult(result.category, confidence, result.description, model, cost_micros)


def answer_of(result: CachedResult, caller: Caller, *, from_cache: bool, similar: Similar | None = None) -> Answer:
    """Return the answer to `caller`, whose time ends now; `similar` says which photo's it is, if another's."""
    return Answer.now(
        caller,
        category=result.category,
        confidence=result.confidence,
        description=result.description,
        from_cache=from_cache,
        model=result.model,
        cost_micros=result.cost_micros,
        is_stale=result.is_stale,
        similar=similar,
    )
