"""`python -m bench [--quick] [--before CHECKOUT]`: measure everything side by side; README.md says how to read it."""

import argparse
import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.command import run_command
from bench.databases import MysqlServer, median_fsync_ms, mysql_server, sqlite_database
from bench.lines import Targets, fill_caches, plan_measurements
from bench.measure import Target, measure, start_target
from bench.report import ProcessRow, render_changes, render_loads, render_processes, render_targets
from bench.requests import make_photo
from bench.services import ServiceCommand, Usage, median_start_seconds, our_service, read_usage, start_service
from bench.targets import judge
from bench.wrk import Wrk
from scripts.mysql_instance import Setup


@dataclass(frozen=True, slots=True)
class Plan:
    """How long: seconds of each line before and in each round, rounds, and starts of each service.

    Without a warm-up the first round has it; without starts it counts how long the service of the run took, while
    others started too.
    """

    warm_up_seconds: float
    seconds: float
    rounds: int
    starts: int


FULL = Plan(warm_up_seconds=0.5, seconds=1.5, rounds=7, starts=3)
QUICK = Plan(warm_up_seconds=0, seconds=0.2, rounds=1, starts=0)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the service beside plain routes.")
    parser.add_argument("--quick", action="store_true", help="a smoke test of a minute; its figures mean nothing")
    parser.add_argument("--before", type=Path, help="another checkout, whose service is measured in turns with ours")
    options = parser.parse_args(arguments)
    return run_command(partial(run, QUICK if options.quick else FULL, options.before))


def run(plan: Plan, before: Path | None, wrk: Wrk) -> None:
    """Start everything, measure, and print; `before` is another checkout to compare ours with.

    Raises:
        LoadError, AccountingError: an answer was wrong, or the database does not hold what was answered.
        NoServerError, ServerStartError, ProcessFailedError, NotDurableError, WrkMissingError: it cannot be measured.
    """
    photo = make_photo()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        mysql = stack.enter_context(mysql_server(must_be_durable=plan is FULL))
        without_binary_log = stack.enter_context(mysql_server(Setup.DURABLE, must_be_durable=plan is FULL))
        print(_describe_run(plan, wrk, mysql.name, median_fsync_ms(folder)), flush=True)
        with ExitStack() as services:
            targets = _start_targets(plan, stack, services, folder, mysql, without_binary_log, before)
            fill_caches(targets, photo)
            measurements = plan_measurements(targets, photo)
            if plan.warm_up_seconds:
                for each in measurements:
                    measure(each, wrk, plan.warm_up_seconds)
            # Side by side, so that a slow minute of the machine falls on every line.
            for _ in range(plan.rounds):
                for each in measurements:
                    each.samples.append(measure(each, wrk, plan.seconds))
            ended = [read_usage(target.service.pid) for target in targets.all()]
        processes = [_process_row(*item, plan) for item in zip(targets.all(), ended, strict=True)]
    ours = processes[targets.all().index(targets.ours)]
    goals = judge(measurements, targets, start_seconds=ours.start_seconds, ended_megabytes=ours.ended_megabytes)
    print(f"{render_loads(measurements)}\n\n{render_processes(processes)}\n\n{render_targets(goals)}")
    if targets.before is not None:
        print(f"\n{render_changes(measurements, targets)}")


def _start_targets(
    plan: Plan,
    stack: ExitStack,
    services: ExitStack,
    folder: Path,
    mysql: MysqlServer,
    mysql_without_binary_log: MysqlServer,
    checkout: Path | None,
) -> Targets:
    """Start all services on `services`, two at a time; what they need lives on `stack`."""
    model = stack.enter_context(start_service(ServiceCommand("model", "bench.instant_model:app", folder)))
    naive = stack.enter_context(mysql.database(with_tables=True))
    ours, later = (stack.enter_context(mysql.database()) for _ in range(2))
    without = stack.enter_context(mysql_without_binary_log.database())
    sqlite, demo = (stack.enter_context(sqlite_database(folder / f"{name}.db")) for name in ("sqlite", "demo"))
    start_ours = partial(start_target, makes_schema=plan is FULL)
    naive_command = ServiceCommand("naive", "bench.naive:app", folder, {"DATABASE_URL": naive.url})
    commands = [
        start_target(ServiceCommand("bare", "bench.bare:app", folder), None),
        start_target(ServiceCommand("yardstick", "bench.yardstick:app", folder, {"MODEL_URL": model.url}), None),
        start_target(naive_command, naive.engine),
        start_ours(our_service("ours", ours.url, folder, model_url=model.url), ours.engine),
        start_ours(
            our_service("ours, async", later.url, folder, model_url=model.url, LOG_DURABILITY="async"),
            later.engine,
            written_later=True,
        ),
        start_ours(our_service("ours, no binary log", without.url, folder, model_url=model.url), without.engine),
        start_ours(our_service("ours, SQLite", sqlite.url, folder, model_url=model.url), sqlite.engine),
        start_ours(our_service("ours, SQLite, local model", demo.url, folder), demo.engine),
    ]
    if checkout is not None:
        database = stack.enter_context(mysql.database())
        command = our_service("before", database.url, folder, model_url=model.url)
        commands.append(start_ours(replace(command, checkout=checkout.resolve()), database.engine))
    with ThreadPoolExecutor(2) as pool:
        return Targets(*pool.map(services.enter_context, commands))


def _process_row(target: Target, ended: Usage, plan: Plan) -> ProcessRow:
    starts = plan.starts
    return ProcessRow(
        name=target.command.name,
        start_seconds=median_start_seconds(target.command, starts) if starts else target.service.start_seconds,
        started_megabytes=target.started.resident_megabytes,
        ended_megabytes=ended.resident_megabytes,
        peak_megabytes=ended.peak_megabytes,
    )


def _describe_run(plan: Plan, wrk: Wrk, mysql: str, fsync_ms: float) -> str:
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{mysql}, {wrk.version()}; load average {os.getloadavg()[0]:.1f} before the run; fsync of 4 KB {fsync_ms:.2f} "
        f"ms; {plan.rounds} x {plan.seconds:g} s a line\n"
    )


if __name__ == "__main__":
    sys.exit(main())
