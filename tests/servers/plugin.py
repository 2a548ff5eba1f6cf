"""pytest hooks: one set of servers for all processes of a test run, started by the first test that asks for it.

With pytest-xdist the controller owns the run and tells the workers its directory.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.servers.databases import ServerRun, Servers

RUN = pytest.StashKey[ServerRun]()
WORKER_INPUT = "server_run_directory"


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """The MySQL server, and MariaDB where it is installed."""
    return pytestconfig.stash[RUN].servers()


def pytest_configure(config: pytest.Config) -> None:
    """Begin a run, or take part in the controller's."""
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker_input is None:
        config.stash[RUN] = ServerRun.create()
    else:
        config.stash[RUN] = ServerRun.join(Path(worker_input[WORKER_INPUT]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the run is."""
    node.workerinput[WORKER_INPUT] = str(node.config.stash[RUN].directory)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which servers the tests ran on, and plainly when it was not MySQL."""
    used = config.stash[RUN].started()
    if used is None:
        return
    name = "MySQL" if used.mysql_is_real else "MariaDB"
    also = f", MariaDB {used.mariadb_version}" if used.mariadb_version else ""
    terminalreporter.write_line(f"database servers: {name} {used.mysql_version}{also}")
    if not used.mysql_is_real:
        because = used.stands_in_because or "TEST_MYSQL_URL is a MariaDB"
        terminalreporter.write_line(f"WARNING: nothing ran on MySQL, MariaDB stood in for it: {because}", yellow=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run if it is ours."""
    run = config.stash.get(RUN, None)
    if run is not None:
        run.close()
