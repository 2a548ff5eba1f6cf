"""What the local model has answered in the place of the one that is paid: calls saved, and the price in accuracy.

New photos are counted by the model that answered (rollups), and the local model's final answers have names of their own
(app/services/classification/local_first.py). How many of them are right was measured when its thresholds were chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.clients.base import CASCADE_MODEL_PREFIX, LOCAL_MODEL_PREFIX, LOCAL_ONLY_MODEL_PREFIX
from app.clients.thresholds import Measured
from app.services.statistics.rounding import percent
from app.services.statistics.shares import PhotoShare
from app.services.statistics.spending import SpendingShare

_MONEY_DIGITS = 6


@dataclass(frozen=True, slots=True)
class MeasuredPrecision:
    """The share of right ones among the answers that the local model is sure of, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CascadeFigures:
    """The new photos of some days, by what answered.

    `sure` are those that the local model has answered because it was sure, `kept` because they were not to leave the
    server, `sent` went to another model. `share_saved` is that of the first two, in percent. `estimated_saving` is what
    as many calls would have cost, in `currency`, at the average of these days' calls; null where there were none.
    `expected_mistakes` is how many of `sure` are wrong by `precision`; both are null where no cascade is configured.
    """

    sure: int
    kept: int
    sent: int
    calls_saved: int
    share_saved: float
    estimated_saving: float | None
    precision: MeasuredPrecision | None
    expected_mistakes: float | None
    currency: str


def cascade_figures(
    photos: Sequence[PhotoShare], spending: Sequence[SpendingShare], right: Measured | None, currency: str
) -> CascadeFigures:
    """Put the figures together.

    Args:
        photos: new photos by model.
        spending: calls of the same days.
        right: what was measured of answers that the local model is sure of.
        currency: of all money.
    """
    counts = dict.fromkeys((CASCADE_MODEL_PREFIX, LOCAL_ONLY_MODEL_PREFIX, LOCAL_MODEL_PREFIX, ""), 0)
    for each in photos:
        counts[next(prefix for prefix in counts if each.value.startswith(prefix))] += each.count
    sure, kept, sent = (counts[prefix] for prefix in (CASCADE_MODEL_PREFIX, LOCAL_ONLY_MODEL_PREFIX, ""))
    calls, cost = sum(each.calls for each in spending), sum(each.cost for each in spending)
    return CascadeFigures(
        sure=sure,
        kept=kept,
        sent=sent,
        calls_saved=sure + kept,
        share_saved=percent(sure + kept, sure + kept + sent),
        estimated_saving=round((sure + kept) * cost / calls, _MONEY_DIGITS) if calls else None,
        precision=None if right is None else MeasuredPrecision(round(right.share, 4), right.low, right.high),
        expected_mistakes=None if right is None else round(sure * (1 - right.share), 1),
        currency=currency,
    )
