"""`python -m bench.worker_classes [--quick]`: gunicorn's worker classes side by side, on our hit and on the yardstick.

All services run at the same time and take turns, so that a slow minute of the machine falls on each of them.
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

from app.config import PROJECT_ROOT
from bench.databases import mysql_database
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
COLUMNS = ("route", "worker class", "workers", "requests/s", "spread", "p99 ms", "CPU ms", "busiest worker")


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

    def cells(self) -> list[str]:
        """Return the line as text: medians over the rounds."""
        rates = [sample.per_second for sample in self.samples]
        rate = statistics.median(rates)
        cpu, p99, busiest = (
            statistics.median(getattr(sample, name) for sample in self.samples)
            for name in ("cpu_ms", "p99_ms", "busiest")
        )
        spread = (max(rates) - min(rates)) / rate
        return [
            *(self.route, self.worker_class.name, str(self.workers), f"{rate:.0f}", f"{spread * 100:.0f} %"),
            *(f"{p99:.0f}", f"{cpu:.2f}", f"{busiest * 100:.0f} %"),
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
        mysql = stack.enter_context(mysql_database(must_be_durable=True))
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
            ServiceCommand(f"hit, {mysql.name}", "app.main:app", folder, settings),
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
            measure(line, wrk, check_known(photo), seconds / 4)
        for _ in range(rounds):
            for line in lines:
                line.samples.append(measure(line, wrk, check_known(photo), seconds))
    print(_table(lines))


def _table(lines: Sequence[Line]) -> str:
    rows = [COLUMNS, ["---", "---", *["---:"] * (len(COLUMNS) - 2)], *(line.cells() for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker_classes", description="Compare gunicorn's workers.")
    parser.add_argument("--quick", action="store_true", help="shows that it works; its figures mean nothing")
    is_quick = parser.parse_args(arguments).quick
    run(seconds=0.4 if is_quick else 4, rounds=1 if is_quick else 3)


if __name__ == "__main__":
    main()
