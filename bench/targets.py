"""What the service is to reach, and whether it did: a figure that is a must, and one that is the goal."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.lines import HIT, KNOWN, NEW, Targets
from bench.measure import Measurement


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure. `goal` is None where the must is all; `unit` is " x yardstick" or the like."""

    name: str
    unit: str
    must: float
    goal: float | None
    measured: float
    more_is_better: bool = True

    @property
    def verdict(self) -> str:
        """Say "met goal", "met" (the must alone) or "missed"."""
        if self.goal is not None and self._reaches(self.goal):
            return "met goal"
        return "met" if self._reaches(self.must) else "missed"

    def _reaches(self, limit: float) -> bool:
        return self.measured >= limit if self.more_is_better else self.measured <= limit


def judge(
    lines: Sequence[Measurement], targets: Targets, *, start_seconds: float, ended_megabytes: float
) -> list[Goal]:
    """Compare what was measured with what is wanted; start and memory are those of our service on MySQL."""

    def line(title: str, target: object, connections: int) -> Measurement:
        return next(
            each for each in lines if (each.title, each.target, each.connections) == (title, target, connections)
        )

    def speed(name: str, measurement: Measurement, must: float, goal: float) -> Goal:
        return Goal(name, " x yardstick", must, goal, measurement.ratio(measurement.yardstick) or 0.0)

    ours, later = targets.ours, targets.later
    hit_32, alone = line(HIT, ours, 32), line(HIT, ours, 1)
    latency = alone.median(lambda sample: sample.p50_ms)
    return [
        speed("hit, durable, 32 connections", hit_32, 0.8, 1.0),
        Goal("the same", " x naive", 8.0, None, hit_32.ratio(hit_32.naive) or 0.0),
        speed("hit, durable, 128 connections", line(HIT, ours, 128), 1.0, 1.3),
        speed("hit, async, 32 connections", line(HIT, later, 32), 1.0, 1.2),
        Goal("hit, durable, 1 connection, p50", " ms", 1.5, 1.01, latency, more_is_better=False),
        speed("upload of a known photo, 8 connections", line(KNOWN, ours, 8), 0.8, 1.5),
        speed("upload of a new photo, 8 connections", line(NEW, ours, 8), 0.8, 1.2),
        Goal("memory of the worker after the run", " MB", 150, 110, ended_megabytes, more_is_better=False),
        Goal("start to the first answer, schema in place", " s", 4, 2, start_seconds, more_is_better=False),
    ]
