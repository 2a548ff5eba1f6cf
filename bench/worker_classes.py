"""`python -m bench.worker_classes [--quick]`: gunicorn's worker classes side by side, on our hit and on the yardstick.

All services run at the same time and take short turns, so that a slow minute of the machine falls on each of them;
ratios are those of the same round.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from app.config.settings import PROJECT_ROOT
from bench.databases import mysql_server
from bench.instant_model import MODEL
from bench.load import Request, run_load
from bench.requests import check_known, make_photo, upload_known
from bench.services import (
    FIRST_QUESTION,
    START_TIMEOUT_SECONDS,
    STOP_TIMEOUT_SECONDS,
    Service,
    ServiceCommand,
    make_known,
    read_usage,
    start_service,
)
from bench.wrk import Wrk, get_wrk
from tests.servers.processes import answers_http, free_port, start_process

CONNECTIONS = 32
COLUMNS = ("route", "worker class", "workers", "requests/s", "of ours", "p99 ms", "CPU ms", "of ours", "busiest worker")
SCALING_COLUMNS = ("route", "worker class", "requests/s with 2 workers, of those with 1", "CPU ms")


@dataclass(frozen=True, slots=True)
class WorkerClass:
    """A way to run gunicorn; `least_workers` is what it takes to see a difference."""

    name: str
    options: tuple[str, ...]
    least_workers: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One load. `cpu_ms` is what one answer cost all workers, `busiest` the largest share that one of them had."""

    per_second: float
    p99_ms: float
    cpu_ms: float
    busiest: float


@dataclass(slots=True)
class Line:
    """One line of the table."""

    route: str
    worker_class: WorkerClass
    workers: int
    service: Service
    samples: list[Sample] = field(default_factory=list)

    def median(self, name: str) -> float:
        """Return the median of a value over the rounds."""
        return statistics.median(float(getattr(sample, name)) for sample in self.samples)

    def ratio(self, other: "Line", name: str) -> float:
        """Return the median over the rounds of a value's ratio to another line's in the same round."""
        pairs = zip(self.samples, other.samples, strict=True)
        return statistics.median(float(getattr(ours, name) / getattr(theirs, name)) for ours, theirs in pairs)

    def cells(self, ours: "Line") -> list[str]:
        """Return the line as text."""
        return [
            *(self.route, self.worker_class.name, str(self.workers)),
            *(f"{self.median('per_second'):.0f}", f"{self.ratio(ours, 'per_second'):.2f}"),
            *(f"{self.median('p99_ms'):.0f}", f"{self.median('cpu_ms'):.2f}", f"{self.ratio(ours, 'cpu_ms'):.2f}"),
            f"{self.median('busiest') * 100:.0f} %",
        ]


def worker_classes() -> list[WorkerClass]:
    """Return what is compared; gunicorn's parser in C only where it is installed."""
    asgi = ("--worker-class", "asgi", "--asgi-loop", "uvloop", "--http-parser")
    classes = [
        WorkerClass("DrainingWorker (ours)", ()),
        WorkerClass("uvicorn_worker.UvicornWorker", ("--worker-class", "uvicorn_worker.UvicornWorker")),
        WorkerClass("asgi", (*asgi, "python")),
        WorkerClass("ours, SO_REUSEPORT", ("--reuse-port",), least_workers=2),
    ]
    if find_spec("gunicorn_h1c") is not None:
        classes.append(WorkerClass("asgi, gunicorn_h1c", (*asgi, "fast")))
    return classes


@contextmanager
def start_gunicorn(command: ServiceCommand, worker_class: WorkerClass, workers: int) -> Iterator[Service]:
    """Serve with our configuration but for the worker class; `pid` is the master's."""
    port = free_port()
    options = ["--workers", str(workers), "--bind", f"127.0.0.1:{port}", "--max-requests", "0", *worker_class.options]
    gunicorn = Path(sys.executable).with_name("gunicorn")
    with start_process(
        [gunicorn, "--config", PROJECT_ROOT / "gunicorn_config.py", *options, command.app],
        ready=lambda: answers_http(port, FIRST_QUESTION.path),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **command.environment},
        cwd=command.folder,
        ready_within_seconds=START_TIMEOUT_SECONDS,
        grace_seconds=STOP_TIMEOUT_SECONDS,
    ) as process:
        yield Service(f"http://127.0.0.1:{port}", process.pid, 0)


def cpu_seconds(master: int) -> list[float]:
    """Return the CPU time of each worker, in the same order each time."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return [read_usage(int(child)).cpu_seconds for child in children]


def measure(line: Line, wrk: Wrk, request: Request, seconds: float) -> Sample:
    """Put one load on a service; raises LoadError."""
    before = cpu_seconds(line.service.pid)
    load = run_load(wrk, line.service.url, request, connections=CONNECTIONS, seconds=seconds)
    used = [after - was for after, was in zip(cpu_seconds(line.service.pid), before, strict=True)]
    return Sample(load.per_second, load.p99_ms, sum(used) * 1000 / load.answers, max(used) / sum(used))


def run(seconds: float, rounds: int) -> None:
    """Start everything, measure, and print the table.

    Raises:
        LoadError: an answer was missing or wrong.
    """
    wrk, photo = get_wrk(), make_photo()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = stack.enter_context(mysql_server(must_be_durable=True))
        mysql = stack.enter_context(server.database())
        model = stack.enter_context(start_service(ServiceCommand("model", "bench.instant_model:app", folder)))
        settings: Mapping[str, str] = {
            "DATA_DIR": str(folder),
            "DATABASE_URL": mysql.url,
            "MYSQL_MAX_CONNECTIONS_TOTAL": "15",
            "LLM_PROVIDER": "custom",
            "LLM_BASE_URL": f"{model.url}/v1",
            "LLM_MODEL": MODEL,
        }
        commands = [
            ServiceCommand("yardstick", "bench.yardstick:app", folder),
            ServiceCommand(f"hit, {server.name}", "app.main:app", folder, settings),
        ]
        lines = [
            Line(command.name, each, workers, stack.enter_context(start_gunicorn(command, each, workers)))
            for command in commands
            for workers in (1, 2)
            for each in worker_classes()
            if workers >= each.least_workers
        ]
        make_known(lines[-1].service, upload_known(photo))
        for line in lines:
            measure(line, wrk, check_known(photo), seconds)
        for _ in range(rounds):
            for line in lines:
                line.samples.append(measure(line, wrk, check_known(photo), seconds))
    of_ours = {(line.route, line.workers): line for line in reversed(lines) if line.worker_class == worker_classes()[0]}
    print(_table(COLUMNS, 2, [line.cells(of_ours[line.route, line.workers]) for line in lines]))
    of_one = {(line.route, line.worker_class): line for line in lines if line.workers == 1}
    pairs = [(line, of_one.get((line.route, line.worker_class))) for line in lines if line.workers > 1]
    rows = [
        [line.route, line.worker_class.name, f"{line.ratio(one, 'per_second'):.2f}", f"{line.ratio(one, 'cpu_ms'):.2f}"]
        for line, one in pairs
        if one is not None
    ]
    print(f"\n{_table(SCALING_COLUMNS, 2, rows)}")


def _table(columns: Sequence[str], left_aligned: int, rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * left_aligned + ["---:"] * (len(columns) - left_aligned)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *rows])


def main(arguments: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker_classes", description="Compare gunicorn's workers.")
    parser.add_argument("--quick", action="store_true", help="shows that it works; its figures mean nothing")
    is_quick = parser.parse_args(arguments).quick
    run(seconds=0.4 if is_quick else 1.5, rounds=1 if is_quick else 12)


if __name__ == "__main__":
    main()
