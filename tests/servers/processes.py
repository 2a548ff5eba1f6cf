"""Real programs for tests: started, awaited, and gone at the end of the block or of this process, however it ends."""

import contextlib
import http.client
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SUPERVISOR = Path(__file__).with_name("supervisor.py")
POLL_SECONDS = 0.02
OUTPUT_IN_ERRORS = 8000


class ProcessFailedError(Exception):
    """A program ended early or did not get ready; the text ends with its output."""


@dataclass(slots=True)
class RunningProcess:
    """A program under supervision. `pid` is its process id and its process group, `log` a file with its output."""

    pid: int
    log: Path
    supervisor: subprocess.Popen[bytes] = field(repr=False)
    _exit_status: int | None = None

    def output(self) -> str:
        """Return what it has written so far, standard output and standard error together."""
        return self.log.read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself, not to its group."""
        os.kill(self.pid, number)

    def wait(self, timeout_seconds: float | None) -> int | None:
        """Wait for its end (None: however long it takes); return its exit status, or None if it still runs.

        The status is 128 + N if signal N ended it.
        """
        report = self.supervisor.stdout
        if self._exit_status is None and report is not None and select.select([report], [], [], timeout_seconds)[0]:
            line = report.readline()
            # Nothing at all is what a killed supervisor says, and its program died with it.
            self._exit_status = int(line.removeprefix(b"exit ")) if line else 128 + signal.SIGKILL
        return self._exit_status


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago; who binds it must be ready to lose a race for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers_http(port: int, path: str = "/") -> bool:
    """Return whether an HTTP server on 127.0.0.1:`port` gives any answer at all; for `ready` of `start_process`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


@contextlib.contextmanager
def start_process(
    command: Sequence[str | Path],
    *,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ready_within_seconds: float = 120,
    grace_seconds: float = 5,
) -> Iterator[RunningProcess]:
    """Run `command` for the length of the block, which begins when `ready()` is true.

    `env` is the whole environment (None: ours). At the end the program gets SIGTERM, `grace_seconds` later SIGKILL,
    and so does everything it has started.

    Raises:
        ProcessFailedError: it ended early, or was not ready in time.
    """
    directory = Path(tempfile.mkdtemp(prefix="process-"))
    lifetime, keep_alive = os.pipe()
    try:
        process = spawn_supervised(
            command, lifetime, directory / "log", remove=directory, grace_seconds=grace_seconds, env=env, cwd=cwd
        )
    except BaseException:
        os.close(keep_alive)
        shutil.rmtree(directory)
        raise
    finally:
        os.close(lifetime)
    try:
        await_ready(process, ready, ready_within_seconds)
        yield process
    finally:
        os.close(keep_alive)
        process.wait(None)
        process.supervisor.communicate()
        # It has done so, unless it was killed.
        shutil.rmtree(directory, ignore_errors=True)


def spawn_supervised(
    command: Sequence[str | Path],
    lifetime: int,
    log: Path,
    *,
    remove: Path,
    grace_seconds: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> RunningProcess:
    """Start `command`; it ends, and the directory `remove` with it, when the pipe behind `lifetime` is closed.

    `pass_fds` are descriptors for the supervisor to hold until its end.
    """
    with log.open("wb") as output:
        supervisor = subprocess.Popen(  # noqa: S603 - the caller's command is the purpose
            [sys.executable, "-I", "-S", SUPERVISOR, str(grace_seconds), remove, *command],
            bufsize=0,
            stdin=lifetime,
            stdout=subprocess.PIPE,
            stderr=output,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    process = RunningProcess(0, log, supervisor)
    first = supervisor.stdout.readline() if supervisor.stdout is not None else b""
    if first.startswith(b"pid "):
        process.pid = int(first.removeprefix(b"pid "))
    else:
        process._exit_status = 127
    return process


def await_ready(process: RunningProcess, ready: Callable[[], bool], within_seconds: float) -> None:
    """Return when `ready()` is true.

    Raises:
        ProcessFailedError: the process ended first, or `within_seconds` were over.
    """
    deadline = time.monotonic() + within_seconds
    while not ready():
        status = process.wait(0)
        if status is not None:
            problem = f"ended with status {status}"
        elif time.monotonic() > deadline:
            problem = f"was not ready after {within_seconds} s"
        else:
            time.sleep(POLL_SECONDS)
            continue
        raise ProcessFailedError(f"the program {problem}:\n{process.output()[-OUTPUT_IN_ERRORS:]}")
