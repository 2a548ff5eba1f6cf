"""`evaluate --cascade`: chooses from where on the local model's answers count, and measures what comes of it.

A threshold per category is a deferral rule as in selective classification (Geifman and El-Yaniv, Selective
Classification for Deep Neural Networks, 2017): the lowest one that holds the target is taken, so that as many photos as
possible are answered. What is measured is measured on sources that the thresholds were not chosen by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from app.categories import Category
from app.clients.local.head import CATEGORY_ORDER
from app.clients.local.training.train import assign_folds
from app.clients.thresholds import CategoryThresholds, Measured, Thresholds
from app.evaluation.statistics import share

MIN_PHOTOS = 100
"""Of fewer, hardly a category would have a threshold."""
# The most that may be missed of a category that is not to leave the server, of those that it is chosen by.
MAX_MISSED = 0.01
# Thresholds are kept with as many decimals as the local model's probabilities have.
_STEP = 1e-4


@dataclass(frozen=True, slots=True)
class Scored:
    """What the local model has given to each category for a photo of a source, and what the photo shows."""

    truth: Category
    source: str
    probabilities: Mapping[Category, float]

    @property
    def said(self) -> Category:
        return max(self.probabilities, key=self.probabilities.__getitem__)


class Choice(NamedTuple):
    """The thresholds of one category; their meaning is that of `CategoryThresholds`."""

    sure_from: float | None
    kept_from: float


def choose(scored: Sequence[Scored], target: float, *, repeats: int = 1) -> dict[Category, Choice]:
    """Return the thresholds for a precision of `target`.

    A category's answers count from the lowest probability on at which the target holds for this category, even if the
    next answer were wrong: right / (answers + 1). So one is never sure of with a few photos: at 0.97 it takes 33.

    Args:
        scored: the photos; of those that were judged several times, each time.
        target: the share of right answers.
        repeats: how often each photo is among them.
    """
    return {
        category: Choice(_sure_from(scored, category, target, repeats), _kept_from(scored, category))
        for category in Category
    }


def measure(scored: Sequence[Scored], target: float, *, repeats: int = 1, cross_validated: bool) -> Thresholds:
    """Return the thresholds chosen by all photos, and what is measured with those that other sources have chosen.

    Args:
        scored: as with `choose`, all photos of the first time first.
        target: the share of right answers.
        repeats: how often each photo is among them.
        cross_validated: each was judged by a head that was trained on other sources.
    """
    first = scored[: len(scored) // repeats]
    truth = np.array([CATEGORY_ORDER.index(each.truth) for each in first])
    folds = np.tile(assign_folds([each.source for each in first], truth, seed=0), repeats)
    chosen: list[dict[Category, Choice]] = [{}] * len(scored)
    for fold in np.unique(folds):
        by_others = choose(
            [each for each, of in zip(scored, folds, strict=True) if of != fold], target, repeats=repeats
        )
        for place in np.flatnonzero(folds == fold):
            chosen[int(place)] = by_others
    pairs = list(zip(scored, chosen, strict=True))

    final = choose(scored, target, repeats=repeats)
    answered = [each for each, choices in pairs if _is_sure(each, choices)]
    categories = {}
    for category in Category:
        of_it = [each for each in answered if each.said is category]
        own = [each.truth is category for each in scored]
        stays = [each.probabilities[category] >= choices[category].kept_from for each, choices in pairs]
        staying = list(zip(own, stays, strict=True))
        categories[category] = CategoryThresholds(
            sure_from=final[category].sure_from,
            answered=_measured(len(of_it), sum(each.said is category for each in scored), repeats),
            right=_measured(sum(each.truth is category for each in of_it), len(of_it), repeats),
            kept_from=final[category].kept_from,
            missed=_measured(sum(not remains for is_own, remains in staying if is_own), sum(own), repeats),
            kept_in_vain=_measured(
                sum(remains for is_own, remains in staying if not is_own), len(own) - sum(own), repeats
            ),
        )
    return Thresholds(
        target_precision=target,
        photos=len(first),
        sources=len({each.source for each in first}),
        cross_validated=cross_validated,
        chosen_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        answered=_measured(len(answered), len(scored), repeats),
        right=_measured(sum(each.said is each.truth for each in answered), len(answered), repeats),
        categories=categories,
    )


def _sure_from(scored: Sequence[Scored], category: Category, target: float, repeats: int) -> float | None:
    answers = sorted(
        ((each.probabilities[category], each.truth is category) for each in scored if each.said is category),
        reverse=True,
    )
    found, right = None, 0
    for number, (probability, is_right) in enumerate(answers, 1):
        right += is_right
        is_last_of_its_kind = number == len(answers) or answers[number][0] < probability
        if is_last_of_its_kind and right / (number + repeats) >= target:
            found = probability
    return found


def _kept_from(scored: Sequence[Scored], category: Category) -> float:
    """Return the highest probability below which no more than MAX_MISSED of a category's photos are."""
    own = sorted(each.probabilities[category] for each in scored if each.truth is category)
    # Of none nothing is known: all stay.
    return max(0.0, round(own[int(MAX_MISSED * len(own))] - _STEP, 4)) if own else 0.0


def _is_sure(each: Scored, choices: Mapping[Category, Choice]) -> bool:
    sure_from = choices[each.said].sure_from
    return sure_from is not None and each.probabilities[each.said] >= sure_from


def _measured(part: float, whole: float, repeats: int) -> Measured:
    found = share(round(part / repeats), round(whole / repeats))
    return Measured(
        found.part, found.whole, round(found.low or 0.0, 4), round(1.0 if found.high is None else found.high, 4)
    )
