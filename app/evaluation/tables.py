"""The report as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.clients.thresholds import Measured, Thresholds
from app.evaluation.report import Comparison, Judged, Report
from app.evaluation.statistics import Share


def show(report: Report, output: Console) -> None:
    """Print one model's report."""
    calibration, spent = report.calibration, report.spent
    summary = Table("", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    summary.add_row("model", Text(report.model), style="bold")
    summary.add_row("photos", str(report.photos))
    summary.add_row("accuracy", interval(report.accuracy))
    summary.add_row("mean recall", number(report.mean_recall))
    for code, count in report.errors.items():
        summary.add_row("no answer", f"{count} {code}")
    for each in calibration.thresholds:
        summary.add_row(
            f"confidence >= {each.confidence}", f"{number(each.covered.value)} of them, right {interval(each.right)}"
        )
    summary.add_row("calibration error", number(calibration.expected_calibration_error))
    summary.add_row(
        "log loss", f"{number(calibration.log_loss)} (of the category {number(calibration.category_log_loss)})"
    )
    sources = ", ".join(f"{name} {count}" for name, count in calibration.sources.items())
    at = "" if calibration.temperature is None else f", temperature {calibration.temperature:.2f}"
    summary.add_row("confidence", f"{sources}{at}")
    summary.add_row("time", f"p50 {number(spent.p50_ms, 0)} ms, p95 {number(spent.p95_ms, 0)} ms")
    summary.add_row(
        "tokens", f"{spent.input_tokens} in ({spent.cached_input_tokens} cached), {spent.output_tokens} out"
    )
    summary.add_row(
        "cost", f"{spent.cost:.4f} {spent.currency}, {number(spent.cost_per_thousand, 4)} a thousand photos"
    )
    output.print(summary, highlight=False)
    _categories(report, output)
    _confusion(report, output)
    _bands(report, output)


def compare(comparison: Comparison, names: tuple[str, str], output: Console) -> None:
    """Print what is between two models."""
    table = Table("", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("both asked about", f"{comparison.photos} photos")
    for name, accuracy in zip(names, (comparison.first, comparison.second), strict=True):
        table.add_row(Text(name), interval(accuracy))
    test = comparison.test
    table.add_row("gain of the second", f"{comparison.points:+.1f} points")
    table.add_row("only one is right", f"{test.only_first} the first, {test.only_second} the second")
    table.add_row("McNemar's exact test", f"p = {test.p_value:.4f}")
    table.add_row("costs more by", f"{comparison.cost_per_thousand:+.4f} {comparison.currency} a thousand photos")
    if comparison.cost_per_point is not None:
        table.add_row("a point costs", f"{comparison.cost_per_point:.4f} {comparison.currency} a thousand photos")
    output.print()
    output.print(table, highlight=False)


def cascade(thresholds: Thresholds, costs: tuple[float, float] | None, currency: str, output: Console) -> None:
    """Print what a cascade answers by itself and how right that is; `costs` are of a thousand photos, with and without.

    No model was asked for `costs`; they are what its price comes to.
    """
    summary = Table("", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    judged = "heads that have not seen their source" if thresholds.cross_validated else "the model itself"
    summary.add_row("photos", f"{thresholds.photos} of {thresholds.sources} sources, judged by {judged}")
    summary.add_row("target precision", f"{thresholds.target_precision}")
    summary.add_row("answered locally", _of(thresholds.answered))
    summary.add_row("right among them", _of(thresholds.right))
    if costs is not None:
        summary.add_row("a thousand photos cost", f"{costs[0]:.4f} {currency} in place of {costs[1]:.4f}")
    output.print(summary, highlight=False)
    heads = ("category", "sure from", "answered", "right among them", "kept from", "missed", "kept in vain")
    table = Table(*heads, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for category, each in thresholds.categories.items():
        parts = (each.missed, each.kept_in_vain)
        sure = number(each.sure_from, 4), _of(each.answered), _of(each.right)
        table.add_row(category, *sure, number(each.kept_from, 4), *map(_of, parts))
    output.print()
    output.print(table, highlight=False)


def worst(judged: Sequence[Judged], limit: int | None) -> list[Judged]:
    """Return the mistakes, those of which the model was surest first; at most `limit`, all where it is None."""
    wrong = [each for each in judged if each.category is not None and not each.is_right]
    return sorted(wrong, key=lambda each: (-each.confidence, str(each.path)))[:limit]


def interval(share: Share) -> str:
    """Write a share with its interval, or a dash where there is nothing to have one."""
    if share.value is None:
        return "-"
    return f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f}; {share.part} of {share.whole})"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _of(measured: Measured) -> str:
    if not measured.whole:
        return "-"
    return f"{measured.share:.3f} ({measured.low:.3f} to {measured.high:.3f}; {measured.part} of {measured.whole})"


def _short(share: Share) -> str:
    return "-" if share.value is None else f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"


def _categories(report: Report, output: Console) -> None:
    table = Table("category", "photos", "recall", "precision", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for key, each in report.categories.items():
        table.add_row(key, str(each.photos), _short(each.recall), _short(each.precision))
    output.print()
    output.print(table, highlight=False)


def _confusion(report: Report, output: Console) -> None:
    keys = [*report.confusion]
    given = [*keys, *([""] if any(row[""] for row in report.confusion.values()) else [])]
    heads = ["shown | said", *(key[:6] or "none" for key in given)]
    table = Table(*heads, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for truth, row in report.confusion.items():
        table.add_row(truth, *(str(row[key]) if row[key] else "·" for key in given))
    output.print()
    output.print(table, highlight=False)


def _bands(report: Report, output: Console) -> None:
    table = Table("confidence", "photos", "says", "is right", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for band in report.calibration.curve:
        table.add_row(
            f"{band.low:.1f} to {band.high:.1f}", str(band.right.whole), number(band.confidence), _short(band.right)
        )
    output.print()
    output.print(table, highlight=False)
