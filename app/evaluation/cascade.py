"""`evaluate --cascade`: chooses from where on the local model's answers count, and measures what comes of it.

A threshold per category is a deferral rule as in selective classification (Geifman and El-Yaniv, Selective
Classification for Deep Neural Networks, 2017): as many photos as possible are answered, as long as the share of right
answers holds. A category has few photos, so what is known of it is drawn towards what is known of all (an empirical
Bayes estimate, with the others as the prior). What is measured is measured on sources that the thresholds were not
chosen by, and its interval has to hold the target, not its value alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
# What is known of all categories weighs as much as so many photos of one.
PRIOR_PHOTOS = 300
# Of a category with fewer answers, none counts: others say too little about it.
MIN_ANSWERS = 20
# Steps by which the share that thresholds are chosen for rises until what is measured holds the target.
_AIM_STEP = 0.0025
_HIGHEST_AIM = 0.9975
# What must not leave the server stays from this part of the lowest probability on that any such photo has: the next one
# may have a lower one.
KEPT_PART = 0.5
# As many decimals as the local model's probabilities have.
PROBABILITY_DIGITS = 4


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


def choose(scored: Sequence[Scored], aim: float, *, repeats: int = 1) -> dict[Category, Choice]:
    """Return the thresholds at which a share of `aim` of each category's answers is right, by estimate.

    The estimate at a probability t, of the n answers of the category from t on, of which r are right, is
    (r + k p) / (n + k + 1): p is the share of right answers from t on in all categories, k is PRIOR_PHOTOS, and the one
    is the next answer, which may be wrong. The lowest t is taken that reaches `aim`.

    Args:
        scored: the photos; of those that were judged several times, each time.
        aim: the share of right answers.
        repeats: how often each photo is among them.
    """
    return {
        category: Choice(_sure_from(scored, category, aim, repeats), _kept_from(scored, category))
        for category in Category
    }


def choose_and_measure(
    scored: Sequence[Scored], target: float, *, repeats: int = 1, cross_validated: bool
) -> Thresholds:
    """Return the thresholds with which the lower end of the measured interval is at `target`, and what is measured.

    Where no thresholds reach that, those are returned that come nearest; `right` says so.

    Args:
        scored: as with `choose`, all photos of the first time first.
        target: the share of right answers.
        repeats: how often each photo is among them.
        cross_validated: each was judged by a head that was trained on other sources.
    """
    found: list[Thresholds] = []
    for aim in np.arange(target, max(target, _HIGHEST_AIM) + _AIM_STEP / 2, _AIM_STEP):
        measured = measure(scored, float(aim), repeats=repeats, cross_validated=cross_validated)
        found.append(replace(measured, target_precision=target))
        if measured.right.low >= target:
            return found[-1]
    return max(found, key=lambda each: each.right.low)


def measure(scored: Sequence[Scored], target: float, *, repeats: int = 1, cross_validated: bool) -> Thresholds:
    """Return the thresholds chosen by all photos, and what is measured with those that other sources have chosen.

    The arguments are those of `choose_and_measure`.
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


def _sure_from(scored: Sequence[Scored], category: Category, aim: float, repeats: int) -> float | None:
    answers = sorted(((each.probabilities[each.said], each) for each in scored), key=lambda answer: -answer[0])
    found: float | None = None
    all_answers = all_right = own = own_right = 0
    for place, (probability, each) in enumerate(answers):
        is_right = each.said is each.truth
        all_answers, all_right = all_answers + 1, all_right + is_right
        if each.said is category:
            own, own_right = own + 1, own_right + is_right
        is_last_of_equals = place + 1 == len(answers) or answers[place + 1][0] < probability
        expected = own_right / repeats + PRIOR_PHOTOS * all_right / all_answers
        if own and is_last_of_equals and expected / (own / repeats + PRIOR_PHOTOS + 1) >= aim:
            found = probability
    return found if own >= MIN_ANSWERS * repeats else None


def _kept_from(scored: Sequence[Scored], category: Category) -> float:
    # Where there are none, nothing is known: all stay.
    lowest = min((each.probabilities[category] for each in scored if each.truth is category), default=0.0)
    return round(KEPT_PART * lowest, PROBABILITY_DIGITS)


def _is_sure(each: Scored, choices: Mapping[Category, Choice]) -> bool:
    sure_from = choices[each.said].sure_from
    return sure_from is not None and each.probabilities[each.said] >= sure_from


def _measured(part: float, whole: float, repeats: int) -> Measured:
    found = share(round(part / repeats), round(whole / repeats))
    return Measured(
        found.part, found.whole, round(found.low or 0.0, 4), round(1.0 if found.high is None else found.high, 4)
    )
