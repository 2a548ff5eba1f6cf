"""`python -m bench.tasks [--tasks N]`: how many asynchronous tasks a second 1, 2 and 4 worker processes finish.

Each is claimed, answered by a model that answers at once, and stored, on a MySQL server with its own defaults. A task
that was begun twice, or has not exactly one result, ends the run with status 1.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx2
from sqlalchemy import ColumnElement, Engine, func, insert, select, text

from app.config.settings import PROJECT_ROOT
from app.database.tables.inference import InferenceResult, InferenceTask, TaskEvent
from app.database.tables.library import LibraryImage
from bench.command import run_command
from bench.databases import MysqlServer, mysql_server
from bench.ledger import AccountingError
from bench.report import render_table, three_figures
from bench.services import ServiceCommand, our_service, read_usage, start_service
from bench.wrk import Wrk
from tests.fakes.images import jpeg_photo
from tests.servers.processes import start_process
from tests.servers.waiting import wait_until

WORKERS = (1, 2, 4)
ROUNDS = 3
# Several of each, so that tasks do not all count in the same rows.
ACCOUNTS, IMAGES = 10, 5
POLL_SECONDS = 0.2
WITHIN_SECONDS = 600
COLUMNS = ("workers", "tasks/s", "spread", "CPU ms of a task in the workers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000, help="of a round (2000)")
    return run_command(partial(_run, parser.parse_args(arguments).tasks))


def _run(tasks: int, _: Wrk) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = stack.enter_context(mysql_server())
        model = stack.enter_context(start_service(ServiceCommand("model", "bench.instant_model:app", Path(folder))))
        measure = partial(_measure, server, model.url, Path(folder), tasks=tasks)
        rounds = [{count: measure(workers=count) for count in WORKERS} for _ in range(ROUNDS)]
    cells = []
    for count in WORKERS:
        rates, milliseconds = zip(*(each[count] for each in rounds), strict=True)
        rate = statistics.median(rates)
        spread = (max(rates) - min(rates)) / rate
        cells.append([str(count), three_figures(rate), f"{spread:.0%}", three_figures(statistics.median(milliseconds))])
    print(f"{server.name}, {tasks} tasks a round\n\n{render_table(COLUMNS, 0, cells)}")


def _measure(server: MysqlServer, model_url: str, folder: Path, workers: int, tasks: int) -> tuple[float, float]:
    """Return tasks per second, from the first claim to the last result, and the workers' CPU milliseconds of a task."""
    with ExitStack() as stack:
        database = stack.enter_context(server.database())
        command = our_service(uuid4().hex, database.url, folder, model_url=model_url, TASK_WORKERS="outside")
        service = stack.enter_context(start_service(command))
        for number in range(ACCOUNTS):
            _make_library(service.url, number)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), **command.environment}
        await_all = partial(wait_until, within_seconds=WITHIN_SECONDS, poll_seconds=POLL_SECONDS)
        start = partial(start_process, [sys.executable, "-m", "app.worker"], env=environment, cwd=folder)
        processes = [stack.enter_context(start(ready=lambda: True)) for _ in range(workers)]
        await_all(lambda: all("task worker: ready" in process.output() for process in processes), "workers")
        before = sum(read_usage(process.pid).cpu_seconds for process in processes)
        _insert(database.engine, tasks)
        await_all(lambda: not _count(database.engine, InferenceTask.status.in_(["pending", "processing"])), "tasks")
        used = sum(read_usage(process.pid).cpu_seconds for process in processes) - before
        return tasks / _seconds(database.engine, tasks), used / tasks * 1000


def _make_library(url: str, number: int) -> None:
    person = {"username": f"bench{number}", "email": f"bench{number}@example.com", "password": uuid4().hex}
    with httpx2.Client(base_url=url, timeout=60) as client:
        client.post("/users/", json=person).raise_for_status()
        token = client.post("/users/token", data=person).raise_for_status().json()["access_token"]
        for image in range(IMAGES):
            files = {"file": ("photo.jpg", jpeg_photo(64 + number, 64 + image), "image/jpeg")}
            headers = {"Authorization": f"Bearer {token}"}
            client.post("/images/upload", files=files, headers=headers).raise_for_status()


def _insert(engine: Engine, tasks: int) -> None:
    """Make all tasks in one transaction: the API would allow an account 1000 at once."""
    values = {"model_name": "default", "status": "pending", "due_at": text("UTC_TIMESTAMP(3)")}
    with engine.begin() as connection:
        images = connection.execute(select(LibraryImage.id.label("image_id"), LibraryImage.user_id)).all()
        rows = [{"id": uuid4().hex, **images[number % len(images)]._asdict()} for number in range(tasks)]
        connection.execute(insert(InferenceTask).values(**values), rows)


def _count(engine: Engine, *conditions: ColumnElement[bool]) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count(InferenceTask.id)).where(*conditions)).scalar_one()


def _seconds(engine: Engine, tasks: int) -> float:
    """Return the time from the first claim to the last result; raises AccountingError."""
    once = _count(engine, InferenceTask.status == "completed", InferenceTask.attempts == 1)
    with engine.connect() as connection:
        results = connection.execute(select(func.count(InferenceResult.task_id.distinct()))).scalar_one()
        times = select(func.min(TaskEvent.created_at), func.max(TaskEvent.created_at))
        began, ended = connection.execute(times).one()
    if (once, results) != (tasks, tasks):
        raise AccountingError(f"of {tasks} tasks {once} were completed at the first attempt, {results} have a result")
    return float((ended - began).total_seconds())


if __name__ == "__main__":
    sys.exit(main())
