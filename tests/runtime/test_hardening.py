"""Keys in the service's memory are out of reach for other processes of its user, and a line at the start says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.config.settings import PROJECT_ROOT
from tests.servers.processes import answers_http, free_port, start_process
from tests.servers.waiting import wait_until
from tests.support.running import COMMANDS, children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")

# Runs a command without root's rights, but as the same user: after that, who reads whose memory is a matter of dumps.
_WITHOUT_RIGHTS = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_SPY = """
import sys
for name in ("mem", "environ", "maps"):
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").close()
        print(name)
    except PermissionError:
        continue
"""
WITHOUT_RIGHTS = [sys.executable, "-c", _WITHOUT_RIGHTS]


def spied(pid: int) -> list[str]:
    """What another process of the same user can read of a process."""
    command = [*WITHOUT_RIGHTS, sys.executable, "-c", _SPY, str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - our own
    return done.stdout.split()


@pytest.mark.parametrize("name", ["python", "gunicorn"])
def test_no_other_process_reads_the_services_memory(environment: dict[str, str], name: str) -> None:
    port = free_port()
    environment |= {"APP_PORT": str(port), "WEB_CONCURRENCY": "1"}
    waits = [*WITHOUT_RIGHTS, sys.executable, "-c", "print(flush=True); input()"]
    with (
        subprocess.Popen(waits, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bystander,  # noqa: S603 - our own
        start_process(
            [*WITHOUT_RIGHTS, *COMMANDS[name]],
            ready=lambda: answers_http(port, "/api/v1/health/live"),
            env=environment,
            cwd=PROJECT_ROOT,
        ) as process,
    ):
        wait_until(lambda: "confined by" in process.output(), "the line is there")
        assert "this process cannot be dumped or traced" in process.output()
        assert process.output().count("confined by") == 1
        # The spy is one.
        assert bystander.stdout is not None
        bystander.stdout.readline()
        assert spied(bystander.pid) == ["mem", "environ", "maps"]
        for pid in [process.pid, *children(process.pid)]:
            assert spied(pid) == [], Path(f"/proc/{pid}/cmdline").read_text()
        bystander.communicate(b"\n", timeout=60)
