"""What is measured, and one measurement: a load on one service, its books checked, its costs read."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine

from bench.ledger import check_ledger, read_ledger
from bench.load import LoadError, Request, run_load
from bench.requests import check_known, upload_known, upload_new
from bench.services import Service, ServiceCommand, Usage, make_known, read_usage, start_service
from bench.wrk import Wrk


@dataclass(frozen=True, slots=True)
class Target:
    """A running service; `engine` reads its books (None: it keeps none), `started` is its usage after its start."""

    command: ServiceCommand
    service: Service
    engine: Engine | None
    started: Usage


@dataclass(frozen=True, slots=True)
class Sample:
    """One load. `cpu_ms` is the CPU time that one answer cost the worker."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


@dataclass(slots=True)
class Measurement:
    """A line of the table: the load, and its samples, one per round.

    `expects_cached` is what `from_cache` must be in every answer. `yardstick` is the line to compare with.
    """

    title: str
    target: Target
    request: Request
    connections: int
    expects_cached: bool = True
    yardstick: "Measurement | None" = None
    samples: list[Sample] = field(default_factory=list)
    resident_megabytes: float = 0.0

    def median(self, value: Callable[[Sample], float]) -> float:
        """Return the median of a value over the rounds."""
        return statistics.median(value(sample) for sample in self.samples)

    def ratio(self) -> float | None:
        """Return the median over the rounds of the rate's ratio to the yardstick's in the same round."""
        if self.yardstick is None:
            return None
        pairs = zip(self.samples, self.yardstick.samples, strict=True)
        return statistics.median(ours.per_second / theirs.per_second for ours, theirs in pairs)


@contextmanager
def start_target(command: ServiceCommand, engine: Engine | None) -> Iterator[Target]:
    """Start a service to be measured; raises ProcessFailedError."""
    with start_service(command) as service:
        yield Target(command, service, engine, read_usage(service.pid))


def plan_measurements(photo: bytes, *, yardstick: Target, databases: list[Target], local: Target) -> list[Measurement]:
    """Return the lines of the table and have the photo that they call known classified everywhere.

    Raises:
        LoadError: a service did not classify it.
    """
    check, known, new = check_known(photo), upload_known(photo), upload_new(photo)
    plain = {connections: Measurement("check-cache", yardstick, check, connections) for connections in (1, 32)}
    plain_upload = Measurement("upload", yardstick, known, 8)
    measurements = [*plain.values(), plain_upload]
    for target in databases:
        make_known(target.service, known)
        measurements += [
            Measurement("check-cache, hit", target, check, connections, yardstick=plain[connections])
            for connections in plain
        ]
        measurements += [
            Measurement("upload, known photo", target, known, 8, yardstick=plain_upload),
            Measurement("upload, new photo", target, new, 8, expects_cached=False, yardstick=plain_upload),
        ]
    measurements += [
        Measurement("upload, new photo", local, new, connections, expects_cached=False) for connections in (1, 2)
    ]
    return measurements


def measure(measurement: Measurement, wrk: Wrk, seconds: float) -> Sample:
    """Put one load on the service and return what came of it.

    Raises:
        LoadError: an answer was missing or not as expected.
        AccountingError: the database does not hold what was answered.
    """
    target = measurement.target
    books = None if target.engine is None else read_ledger(target.engine)
    before = read_usage(target.service.pid)
    load = run_load(wrk, target.service.url, measurement.request, connections=measurement.connections, seconds=seconds)
    after = read_usage(target.service.pid)
    unexpected = load.fresh if measurement.expects_cached else load.cached
    if unexpected:
        raise LoadError(f"{measurement.title} ({target.command.name}): from_cache was wrong in {unexpected} answers")
    if target.engine is not None and books is not None:
        check_ledger(read_ledger(target.engine) - books, load)
    measurement.resident_megabytes = after.resident_megabytes
    cpu_ms = (after.cpu_seconds - before.cpu_seconds) * 1000 / load.answers
    return Sample(load.per_second, load.p50_ms, load.p99_ms, cpu_ms)
