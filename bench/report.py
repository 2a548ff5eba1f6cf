"""The tables: medians over the rounds, and beside each the spread, so that noise is not taken for a difference."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.lines import Targets
from bench.measure import Measurement
from bench.targets import Goal

LOAD_COLUMNS = (
    "request",
    "service",
    "connections",
    "requests/s",
    "spread",
    "p50 ms",
    "p99 ms",
    "CPU ms",
    "of yardstick",
    "of naive",
    "RSS MB",
)
PROCESS_COLUMNS = ("worker", "start s", "RSS MB after the start", "after the run", "peak")
CHANGE_COLUMNS = ("compared with before", "connections", "requests/s", "CPU ms", "p50 ms", "RSS MB")
TARGET_COLUMNS = ("target", "must", "goal", "measured", "verdict")


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A line of the second table; memory in megabytes, `start_seconds` from exec to the first answer."""

    name: str
    start_seconds: float
    started_megabytes: float
    ended_megabytes: float
    peak_megabytes: float


def render_loads(measurements: Sequence[Measurement]) -> str:
    """Return the table of loads as Markdown, and under it how busy the load generator was."""
    rows = render_table(LOAD_COLUMNS, 2, [_load_cells(measurement) for measurement in measurements])
    busiest = max(measurements, key=lambda each: each.median(lambda sample: sample.sender_cpu))
    share = busiest.median(lambda sample: sample.sender_cpu) * 100
    return (
        f"{rows}\n\nwrk, with one thread, was busiest with {busiest.title} ({busiest.target.command.name}, "
        f"{busiest.connections} connections): {share:.0f} % of a core."
    )


def render_processes(rows: Sequence[ProcessRow]) -> str:
    """Return the table of processes as Markdown."""
    return render_table(
        PROCESS_COLUMNS,
        1,
        [
            [
                row.name,
                f"{row.start_seconds:.2f}",
                *(f"{size:.0f}" for size in (row.started_megabytes, row.ended_megabytes, row.peak_megabytes)),
            ]
            for row in rows
        ],
    )


def render_targets(goals: Sequence[Goal]) -> str:
    """Return the table of targets as Markdown."""
    rows = [
        [
            goal.name,
            f"{goal.must:g}{goal.unit}",
            "–" if goal.goal is None else f"{goal.goal:g}{goal.unit}",
            f"{three_figures(goal.measured)}{goal.unit}",
            goal.verdict,
        ]
        for goal in goals
    ]
    return render_table(TARGET_COLUMNS, 1, rows)


def render_changes(measurements: Sequence[Measurement], targets: Targets) -> str:
    """Return ours compared with the service of the other checkout, line by line, as Markdown.

    Requests/s and CPU are ratios within a round, of which the median; p50 and memory are "before → ours".
    """
    by_line = {(each.title, each.connections): each for each in measurements if each.target is targets.before}
    rows = []
    for line in measurements:
        before = by_line.get((line.title, line.connections))
        if before is None or line.target is not targets.ours:
            continue
        p50 = [each.median(lambda sample: sample.p50_ms) for each in (before, line)]
        rows.append(
            [
                line.title,
                str(line.connections),
                f"{line.ratio(before):.2f}",
                f"{line.ratio(before, lambda sample: sample.cpu_ms):.2f}",
                " → ".join(map(three_figures, p50)),
                f"{before.resident_megabytes:.0f} → {line.resident_megabytes:.0f}",
            ]
        )
    return render_table(CHANGE_COLUMNS, 1, rows)


def render_table(columns: Sequence[str], left_aligned: int, rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first `left_aligned` columns are text."""
    rule = ["---"] * left_aligned + ["---:"] * (len(columns) - left_aligned)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *rows])


def three_figures(value: float) -> str:
    """Return a number with three figures, which is more than the noise leaves."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{decimals}f}"


def _load_cells(measurement: Measurement) -> list[str]:
    rates = [sample.per_second for sample in measurement.samples]
    rate = measurement.median(lambda sample: sample.per_second)
    ratios = (measurement.ratio(measurement.yardstick), measurement.ratio(measurement.naive))
    return [
        measurement.title,
        measurement.target.command.name,
        str(measurement.connections),
        three_figures(rate),
        f"{(max(rates) - min(rates)) / rate * 100:.0f} %",
        three_figures(measurement.median(lambda sample: sample.p50_ms)),
        three_figures(measurement.median(lambda sample: sample.p99_ms)),
        three_figures(measurement.median(lambda sample: sample.cpu_ms)),
        *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"{measurement.resident_megabytes:.0f}",
    ]
