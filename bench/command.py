"""What the commands of this package share: when they cannot run or the books do not balance, they say so in a line."""

import argparse
import sys
from collections.abc import Callable

from bench.databases import NotDurableError
from bench.ledger import AccountingError
from bench.load import LoadError
from bench.wrk import Wrk, WrkMissingError, get_wrk
from scripts.mysql_instance import ServerStartError
from scripts.mysql_programs import NoServerError
from tests.servers.processes import ProcessFailedError


def run_command(run: Callable[[Wrk], None]) -> int:
    """Run with the load generator; return the exit status: 0 done, 1 not possible or the books do not balance."""
    if sys.platform != "linux":
        print("bench: it reads /proc, so it runs on Linux only", file=sys.stderr)
        return 1
    try:
        run(get_wrk())
    except (WrkMissingError, NoServerError, ServerStartError, ProcessFailedError, NotDurableError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except (LoadError, AccountingError) as error:
        print(f"bench: FAILED: {error}", file=sys.stderr)
        return 1
    return 0


def add_setting_option(parser: argparse.ArgumentParser) -> None:
    """Add --setting NAME=VALUE, which may be given several times; `settings` is the list of pairs."""
    parser.add_argument(
        "--setting",
        dest="settings",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="an environment variable of our service, such as LOG_DURABILITY=async",
    )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("NAME=VALUE is expected")
    return name, value
