"""One measurement: a load on one service, its books checked, its costs read."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine

from bench.ledger import await_ledger, read_ledger
from bench.load import LoadError, Outcome, Request, run_load
from bench.services import Service, ServiceCommand, Usage, read_usage, start_service
from bench.wrk import Wrk

# A queue of 20 000 rows is written in a second or two; a slow machine gets ten times that.
WRITTEN_LATER_WITHIN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Target:
    """A running service; `engine` reads its books (None: it keeps none), `started` is its usage after its start.

    `books_within_seconds` is how long after its answers it may still write; 0 is what durable means.
    """

    command: ServiceCommand
    service: Service
    engine: Engine | None
    started: Usage
    books_within_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One load. `cpu_ms` is the CPU time that one answer cost the worker, `sender_cpu` wrk's share of one core."""

    answers: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    sender_cpu: float


@dataclass(slots=True)
class Measurement:
    """A line of the table: the load, and its samples, one per round.

    `expects` is what every answer must be. `yardstick` and `naive` are the lines to compare with.
    """

    title: str
    target: Target
    request: Request
    connections: int
    expects: Outcome = Outcome.CACHED
    yardstick: "Measurement | None" = None
    naive: "Measurement | None" = None
    samples: list[Sample] = field(default_factory=list)
    resident_megabytes: float = 0.0

    def median(self, value: Callable[[Sample], float]) -> float:
        """Return the median of a value over the rounds."""
        return statistics.median(value(sample) for sample in self.samples)

    def ratio(
        self, other: "Measurement | None", value: Callable[[Sample], float] = lambda sample: sample.per_second
    ) -> float | None:
        """Return the median over the rounds of a value's (the rate's) ratio to the other line's in the same round."""
        if other is None:
            return None
        pairs = zip(self.samples, other.samples, strict=True)
        return statistics.median(value(ours) / (value(theirs) or 1) for ours, theirs in pairs)


@contextmanager
def start_target(
    command: ServiceCommand, engine: Engine | None, *, makes_schema: bool = False, written_later: bool = False
) -> Iterator[Target]:
    """Start a service to be measured; `written_later`: it answers before it has written.

    One that makes its schema is started twice: the first one keeps Alembic in memory, 11 MB, until it is recycled.

    Raises:
        ProcessFailedError: it did not start.
    """
    if makes_schema:
        with start_service(command):
            pass
    with start_service(command) as service:
        patience = WRITTEN_LATER_WITHIN_SECONDS if written_later else 0
        yield Target(command, service, engine, read_usage(service.pid), patience)


def measure(measurement: Measurement, wrk: Wrk, seconds: float) -> Sample:
    """Put one load on the service and return what came of it.

    Raises:
        LoadError: an answer was missing or not as expected.
        AccountingError: the database does not hold what was answered.
    """
    target = measurement.target
    books = None if target.engine is None else read_ledger(target.engine)
    before = read_usage(target.service.pid)
    try:
        load = run_load(
            wrk, target.service.url, measurement.request, connections=measurement.connections, seconds=seconds
        )
        load.require(measurement.expects)
    except LoadError as error:
        raise LoadError(f"{measurement.title} ({target.command.name}): {error}") from error
    if target.engine is not None and books is not None:
        # What is written after the answers is a part of their cost, so it is waited for first.
        await_ledger(target.engine, books, load, within_seconds=target.books_within_seconds)
    after = read_usage(target.service.pid)
    measurement.resident_megabytes = after.resident_megabytes
    cpu_ms = (after.cpu_seconds - before.cpu_seconds) * 1000 / load.answers
    return Sample(load.answers, load.per_second, load.p50_ms, load.p99_ms, cpu_ms, load.sender_cpu)
