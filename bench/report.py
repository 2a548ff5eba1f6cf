"""The tables: medians over the rounds, and beside each the spread, so that nobody takes noise for a difference."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.measure import Measurement

LOAD_COLUMNS = (
    "request",
    "database, model",
    "connections",
    "requests/s",
    "spread",
    "p50 ms",
    "p99 ms",
    "CPU ms",
    "of yardstick",
    "RSS MB",
)
PROCESS_COLUMNS = ("worker", "start s", "RSS MB after the start", "after the run", "peak")


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A line of the second table; memory in megabytes, `start_seconds` from exec to the first answer."""

    name: str
    start_seconds: float
    started_megabytes: float
    ended_megabytes: float
    peak_megabytes: float


def render_loads(measurements: Sequence[Measurement]) -> str:
    """Return the table of loads as Markdown."""
    return _table(LOAD_COLUMNS, 2, [_load_cells(measurement) for measurement in measurements])


def render_processes(rows: Sequence[ProcessRow]) -> str:
    """Return the table of processes as Markdown."""
    return _table(
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


def _load_cells(measurement: Measurement) -> list[str]:
    rates = [sample.per_second for sample in measurement.samples]
    rate, ratio = measurement.median(lambda sample: sample.per_second), measurement.ratio()
    return [
        measurement.title,
        measurement.target.command.name,
        str(measurement.connections),
        _number(rate),
        f"{(max(rates) - min(rates)) / rate * 100:.0f} %",
        _number(measurement.median(lambda sample: sample.p50_ms)),
        _number(measurement.median(lambda sample: sample.p99_ms)),
        _number(measurement.median(lambda sample: sample.cpu_ms)),
        "–" if ratio is None else f"{ratio:.2f}",
        f"{measurement.resident_megabytes:.0f}",
    ]


def _number(value: float) -> str:
    """Three figures, which is more than the noise leaves."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(columns: Sequence[str], left_aligned: int, rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * left_aligned + ["---:"] * (len(columns) - left_aligned)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *rows])
