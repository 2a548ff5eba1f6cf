"""`python -m bench.faults [NAME ...] [--markdown]`: let each fault happen to real servers, and print what it has cost.

The exit status is 1 where anything was lost, doubled or paid twice, or did not recover.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from pymysql.err import MySQLError
from sqlalchemy.exc import SQLAlchemyError

from bench.faults import database_faults, other_faults
from bench.faults.disk import NoDiskError
from bench.faults.load import NotPreparedError
from bench.faults.report import COLUMNS, cells, remarks, table
from bench.faults.run import run_fault
from bench.faults.site import Fault
from scripts.mysql_instance import ServerStartError
from scripts.mysql_programs import NoServerError, get_mysql, search_path, server_home
from tests.servers.processes import ProcessFailedError

FAULTS = {fault.name: fault for fault in (*database_faults.FAULTS, *other_faults.FAULTS)}
# Why a fault cannot happen here: there is no right to mount a disk, or no Redis. Without MySQL nothing can.
NOT_POSSIBLE = (NoDiskError, NoServerError)
# What ends the run of one fault, and not of the others.
FAILURES = (
    NotPreparedError,
    ServerStartError,
    ProcessFailedError,
    TimeoutError,
    MySQLError,
    SQLAlchemyError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the faults; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="Break one part after the other.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all of these without one: {', '.join(FAULTS)}")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in FAULTS]:
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    if sys.platform != "linux":
        print("faults: they read /proc, so they run on Linux only", file=sys.stderr)
        return 1
    try:
        get_mysql(server_home(), search_path())
    except NoServerError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    return run([FAULTS[name] for name in options.names] or list(FAULTS.values()), markdown=options.markdown)


def run(faults: Sequence[Fault], *, markdown: bool) -> int:
    """Run these one after the other, print the table, and return the exit status."""
    lines: list[list[str]] = []
    said: list[str] = []
    is_clean = True
    began = time.monotonic()
    for fault in faults:
        print(f"{fault.name} ...", file=sys.stderr, flush=True)
        try:
            outcome = run_fault(fault)
        except NOT_POSSIBLE as error:
            lines.append(_line_without_figures(fault, f"skipped: {error}"))
            continue
        except FAILURES as error:
            is_clean = False
            lines.append(_line_without_figures(fault, "FAILED"))
            said.append(f"{fault.name}: {type(error).__name__}: {error}")
            continue
        is_clean = is_clean and outcome.is_clean
        lines.append(cells(outcome))
        said += remarks(outcome)
        print(f"{table(lines[-1:], markdown=False)}\n{outcome.duration_seconds:.0f} s", file=sys.stderr, flush=True)
    print(table(lines, markdown=markdown))
    for sentence in said:
        print(f"{'- ' if markdown else ''}{sentence}")
    print(f"\n{len(faults)} faults in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0 if is_clean else 1


def _line_without_figures(fault: Fault, why: str) -> list[str]:
    line = ["–"] * len(COLUMNS)
    line[0], line[COLUMNS.index("answers by status")] = fault.name, why
    return line


if __name__ == "__main__":
    sys.exit(main())
