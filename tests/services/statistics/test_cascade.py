"""What the local model has saved, from counts by model."""

from app.clients.thresholds import Measured
from app.services.statistics.cascade import MeasuredPrecision, cascade_figures
from app.services.statistics.shares import PhotoShare
from app.services.statistics.spending import SpendingShare


def share(model: str, count: int) -> PhotoShare:
    return PhotoShare(model, count, 0.0)


def spent(calls: int, cost: float) -> SpendingShare:
    return SpendingShare("m", None, calls, 0, 0, 0, cost)


def test_final_answers_are_saved_calls_and_provisional_ones_are_not() -> None:
    photos = [share("cascade/a/1", 60), share("cascade/a/2", 10), share("local-only/a/2", 5), share("local/a/2", 99)]
    figures = cascade_figures([*photos, share("gpt", 20), share("local-ai", 5)], [spent(30, 0.6)], None, "EUR")
    assert (figures.sure, figures.kept, figures.sent, figures.calls_saved) == (70, 5, 25, 75)
    assert figures.share_saved == 75.0
    assert figures.estimated_saving == 1.5
    assert (figures.precision, figures.expected_mistakes) == (None, None)


def test_without_paid_calls_no_saving_is_claimed_and_mistakes_follow_what_was_measured() -> None:
    figures = cascade_figures([share("cascade/a/1", 50)], [], Measured(98, 100, 0.93, 0.99), "EUR")
    assert figures.estimated_saving is None
    assert figures.precision == MeasuredPrecision(0.98, 0.93, 0.99)
    assert figures.expected_mistakes == 1.0
    empty = cascade_figures([], [], None, "EUR")
    assert (empty.calls_saved, empty.share_saved) == (0, 0.0)
