"""`python -m bench [--quick]`: measure everything side by side, print the tables; README.md says how to read them."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.databases import NotDurableError, median_fsync_ms, mysql_database, sqlite_database
from bench.instant_model import MODEL
from bench.ledger import AccountingError
from bench.load import LoadError
from bench.measure import measure, plan_measurements, start_target
from bench.report import ProcessRow, render_loads, render_processes
from bench.requests import make_photo
from bench.services import ServiceCommand, median_start_seconds, read_usage, start_service
from bench.wrk import Wrk, WrkMissingError, get_wrk
from scripts.mysql_instance import ServerStartError
from scripts.mysql_programs import NoServerError
from tests.servers.processes import ProcessFailedError


@dataclass(frozen=True, slots=True)
class Plan:
    """How long: seconds of each line before and in each round, rounds, and starts of each service."""

    warm_up_seconds: float
    seconds: float
    rounds: int
    starts: int


FULL = Plan(warm_up_seconds=0.5, seconds=4.0, rounds=3, starts=3)
QUICK = Plan(warm_up_seconds=0.1, seconds=0.3, rounds=1, starts=1)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit status: 0 done, 1 not possible or the books do not balance."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the service beside a plain route.")
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds; its figures mean nothing")
    plan = QUICK if parser.parse_args(arguments).quick else FULL
    if sys.platform != "linux":
        print("bench: it reads /proc, so it runs on Linux only", file=sys.stderr)
        return 1
    try:
        run(plan, get_wrk())
    except (WrkMissingError, NoServerError, ServerStartError, ProcessFailedError, NotDurableError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except (LoadError, AccountingError) as error:
        print(f"bench: FAILED: {error}", file=sys.stderr)
        return 1
    return 0


def run(plan: Plan, wrk: Wrk) -> None:
    """Start everything, measure, and print.

    Raises:
        LoadError, AccountingError: an answer was wrong, or the database does not hold what was answered.
        NoServerError, ServerStartError, ProcessFailedError, NotDurableError, WrkMissingError: it cannot be measured.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        mysql = stack.enter_context(mysql_database(must_be_durable=plan is FULL))
        sqlite = stack.enter_context(sqlite_database(folder / "sqlite.db"))
        demo = stack.enter_context(sqlite_database(folder / "demo.db"))
        model = stack.enter_context(start_service(ServiceCommand("model", "bench.instant_model:app", folder)))
        print(_describe_run(plan, wrk, mysql.name, median_fsync_ms(folder)), flush=True)

        def command(name: str, url: str, model_settings: Mapping[str, str]) -> ServiceCommand:
            environment = {"DATA_DIR": str(folder), "DATABASE_URL": url, **model_settings}
            return ServiceCommand(name, "app.main:app", folder, environment)

        instant = {"LLM_PROVIDER": "custom", "LLM_BASE_URL": f"{model.url}/v1", "LLM_MODEL": MODEL}
        commands = [
            (ServiceCommand("yardstick", "bench.yardstick:app", folder), None),
            (command(f"{mysql.name}, instant", mysql.url, instant), mysql.engine),
            (command("SQLite, instant", sqlite.url, instant), sqlite.engine),
            (command("SQLite, local", demo.url, {"LLM_PROVIDER": "local"}), demo.engine),
        ]
        with ExitStack() as services:
            targets = [services.enter_context(start_target(*item)) for item in commands]
            yardstick, *databases, local = targets
            measurements = plan_measurements(make_photo(), yardstick=yardstick, databases=databases, local=local)
            for each in measurements:
                measure(each, wrk, plan.warm_up_seconds)
            # Side by side, so that a slow minute of the machine falls on every line.
            for _ in range(plan.rounds):
                for each in measurements:
                    each.samples.append(measure(each, wrk, plan.seconds))
            ended = [read_usage(target.service.pid) for target in targets]

        processes = [
            ProcessRow(
                name=target.command.name,
                start_seconds=median_start_seconds(target.command, plan.starts),
                started_megabytes=target.started.resident_megabytes,
                ended_megabytes=usage.resident_megabytes,
                peak_megabytes=usage.peak_megabytes,
            )
            for target, usage in zip(targets, ended, strict=True)
        ]
    print(f"{render_loads(measurements)}\n\n{render_processes(processes)}")


def _describe_run(plan: Plan, wrk: Wrk, mysql: str, fsync_ms: float) -> str:
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{mysql}, {wrk.version()}; load average {os.getloadavg()[0]:.1f} before the run; fsync of 4 KB {fsync_ms:.2f} "
        f"ms; {plan.rounds} x {plan.seconds:g} s a line\n"
    )


if __name__ == "__main__":
    sys.exit(main())
