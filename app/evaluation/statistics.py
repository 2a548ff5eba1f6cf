"""The formulas: intervals of shares, calibration, the test of two models, and the temperature that fits best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.categories import Category
from app.clients.calibration import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, PROBABILITY_FLOOR, tempered

# Of the standard normal distribution, for 95 %.
Z95 = 1.959964
BAND_LIMITS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# The logarithm of a confidence of 1 that is wrong would be infinite.
_SURE = 1 - 1e-4


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, with its 95 % interval; `value` is None where the whole is nothing."""

    part: int
    whole: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Band:
    """Answers whose confidence is from `low` on, and below `high` (the last one: up to 1)."""

    low: float
    high: float
    confidence: float
    right: Share


@dataclass(frozen=True, slots=True)
class McNemar:
    """The photos that only one of two models has right, and how likely such a difference is by chance."""

    only_first: int
    only_second: int
    p_value: float


def share(part: int, whole: int) -> Share:
    """Return a share with its 95 % interval by Wilson (1927): it stays within 0 and 1, also for few."""
    if whole == 0:
        return Share(part, whole, None, None, None)
    value = part / whole
    scale = 1 + Z95**2 / whole
    centre = (value + Z95**2 / (2 * whole)) / scale
    half = Z95 * math.sqrt(value * (1 - value) / whole + Z95**2 / (4 * whole**2)) / scale
    return Share(part, whole, value, max(0.0, centre - half), min(1.0, centre + half))


def bands(confidences: Sequence[float], right: Sequence[bool]) -> list[Band]:
    """Return the reliability curve: bands of 0.1, those without an answer left out."""
    found = []
    for low, high in pairwise(BAND_LIMITS):
        inside = [
            (confidence, is_right)
            for confidence, is_right in zip(confidences, right, strict=True)
            if low <= confidence < high or (high == 1 and confidence == 1)
        ]
        if inside:
            mean = sum(confidence for confidence, _ in inside) / len(inside)
            found.append(Band(low, high, mean, share(sum(is_right for _, is_right in inside), len(inside))))
    return found


def expected_calibration_error(curve: Sequence[Band]) -> float | None:
    """Return how far confidence and share of right answers are apart, weighted by answers (Naeini et al., 2015)."""
    total = sum(band.right.whole for band in curve)
    if total == 0:
        return None
    return sum(abs(band.right.part - band.confidence * band.right.whole) for band in curve) / total


def log_loss(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the mean negative logarithm of what the model has given to what is so: that it is right, or wrong."""
    if not confidences:
        return None
    losses = [
        -math.log(min(max(confidence if is_right else 1 - confidence, 1 - _SURE), 1.0))
        for confidence, is_right in zip(confidences, right, strict=True)
    ]
    return sum(losses) / len(losses)


def category_log_loss(probabilities: Sequence[Mapping[Category, float]], truth: Sequence[Category]) -> float | None:
    """Return the mean negative logarithm of the true category's probability."""
    if not truth:
        return None
    pairs = zip(probabilities, truth, strict=True)
    return sum(-math.log(max(each.get(category, 0.0), PROBABILITY_FLOOR)) for each, category in pairs) / len(truth)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Return McNemar's exact test, two-sided, of two models on the same photos (McNemar, 1947; binomial form)."""
    only_first = sum(one and not other for one, other in zip(first, second, strict=True))
    only_second = sum(other and not one for one, other in zip(first, second, strict=True))
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    # Whole numbers are divided exactly, however large they are.
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**n))


def fit_temperature(probabilities: Sequence[Mapping[Category, float]], truth: Sequence[Category]) -> float:
    """Return the temperature with the lowest log loss of the true categories.

    It is searched by golden section in log T, between the limits that `tempered` is used with.
    """

    def loss(log_temperature: float) -> float:
        at = [tempered(each, math.exp(log_temperature)) for each in probabilities]
        return category_log_loss(at, truth) or 0.0

    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-3:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile by linear interpolation, None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
