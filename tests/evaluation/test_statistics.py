"""The formulas against values that were computed by hand, or are known."""

import pytest

from app.categories import Category
from app.clients.calibration import tempered
from app.evaluation import statistics


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [(8, 10, 0.490, 0.943), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (936, 1000, 0.919, 0.950)],
)
def test_wilsons_interval(part: int, whole: int, low: float, high: float) -> None:
    """Newcombe, Two-sided confidence intervals for the single proportion, 1998, method 3."""
    share = statistics.share(part, whole)
    assert share.value == part / whole
    assert share.low == pytest.approx(low, abs=5e-4)
    assert share.high == pytest.approx(high, abs=5e-4)


def test_nothing_has_no_share() -> None:
    assert statistics.share(0, 0).value is None
    assert statistics.percentile([], 50) is None
    assert statistics.log_loss([], []) is None
    assert statistics.expected_calibration_error([]) is None


@pytest.mark.parametrize(("first", "second", "p_value"), [(1, 9, 0.021484), (5, 5, 1.0), (0, 0, 1.0), (0, 6, 0.03125)])
def test_mcnemars_exact_test(first: int, second: int, p_value: float) -> None:
    one = [True] * first + [False] * second + [True, False]
    other = [False] * first + [True] * second + [True, False]
    test = statistics.mcnemar(one, other)
    assert (test.only_first, test.only_second) == (first, second)
    assert test.p_value == pytest.approx(p_value, abs=1e-6)


def test_many_photos_do_not_overflow() -> None:
    assert statistics.mcnemar([True] * 3000, [False] * 3000).p_value == 0.0


def test_bands_and_calibration_error() -> None:
    confidences, right = [0.95, 0.95, 1.0, 0.65, 0.6], [True, True, False, True, True]
    low, high = statistics.bands(confidences, right)
    assert (low.low, low.right.whole) == (0.6, 2)
    assert low.confidence == pytest.approx(0.625)
    assert (high.low, high.right.part, high.right.whole) == (0.9, 2, 3)
    assert statistics.expected_calibration_error([low, high]) == pytest.approx((0.75 + 0.9) / 5)


def test_a_sure_mistake_has_a_finite_loss() -> None:
    assert statistics.log_loss([1.0], [False]) == pytest.approx(9.21, abs=0.01)
    assert statistics.log_loss([0.5, 0.5], [True, False]) == pytest.approx(0.6931, abs=1e-4)


def test_percentiles_lie_between_values() -> None:
    assert statistics.percentile([4, 1, 3, 2], 50) == 2.5
    assert statistics.percentile([7], 95) == 7


def test_the_temperature_makes_confidence_what_it_says() -> None:
    """A model that says 0.9 and is right in seven of ten."""
    says = dict.fromkeys(Category, 0.0) | {Category.PETS: 0.9, Category.FOODS: 0.1}
    truth = [Category.PETS] * 7 + [Category.FOODS] * 3
    temperature = statistics.fit_temperature([says] * 10, truth)
    at = tempered(says, temperature)
    assert at[Category.PETS] / (at[Category.PETS] + at[Category.FOODS]) == pytest.approx(0.7, abs=0.06)

    def loss(factor: float) -> float:
        found = statistics.category_log_loss([tempered(says, factor * temperature)] * 10, truth)
        assert found is not None
        return found

    assert loss(1.0) < min(loss(0.9), loss(1.1))
