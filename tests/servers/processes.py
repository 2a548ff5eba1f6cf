"""Real programs for tests: started, awaited, and gone at the end of the block or of this process, however it ends."""

import contextlib
import functools
import http.client
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tests.servers.warm_python import HEEDED, Request

PROJECT_ROOT = Path(__file__).parents[2]
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
    _report: BinaryIO = field(repr=False)
    supervisor: subprocess.Popen[bytes] | None = field(repr=False)
    """None where `_WarmPython` is its parent."""
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
        if self._exit_status is None and select.select([self._report], [], [], timeout_seconds)[0]:
            line = self._report.readline()
            # Nothing at all is what a killed supervisor says, and its program died with it.
            self._exit_status = int(line.removeprefix(b"exit ")) if line else 128 + signal.SIGKILL
        return self._exit_status

    def await_supervisor(self) -> None:
        """Wait until the supervisor has ended, and everything that the program has left behind."""
        self._report.read()
        self._report.close()
        if self.supervisor is not None:
            self.supervisor.wait()


class _WarmPython:
    """The parent of programs in Python: see tests/servers/warm_python.py. It ends with this process."""

    def __init__(self, imports: Sequence[str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "tests.servers.warm_python", str(theirs.fileno()), *imports],
                stdin=subprocess.DEVNULL,
                cwd=PROJECT_ROOT,
                pass_fds=[theirs.fileno()],
            )

    def start(self, request: Request, descriptors: Sequence[int]) -> None:
        """Start a program: `descriptors` are standard input, output and error of its supervisor, and then its own."""
        socket.send_fds(self._requests, [request.to_json()], descriptors)


_warming_up = threading.Lock()


@functools.cache
def _warm_python(imports: tuple[str, ...]) -> _WarmPython:
    return _WarmPython(imports)


def _warm_command(command: Sequence[str | Path], environment: Mapping[str, str]) -> list[str] | None:
    """The arguments for Python where `command` is a module or a script of this Python, with no option of Python."""
    decided_at_start = [name for name in environment if name.startswith(("PYTHON", "LD_"))]
    if "PYTEST_VERSION" not in os.environ or set(decided_at_start) - HEEDED:
        return None
    program, *arguments = map(str, command)
    if program == sys.executable:
        return arguments if arguments[0] == "-m" else None
    path = Path(program)
    if path.parent != Path(sys.executable).parent or not path.is_file():
        return None
    with path.open("rb") as script:
        interpreter = script.readline().decode(errors="replace").removeprefix("#!").strip()
    is_ours = Path(interpreter).is_file() and Path(interpreter).samefile(sys.executable)
    return [program, *arguments] if is_ours else None


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
    streams: Sequence[int] = (),
    imports: tuple[str, ...] = (),
) -> Iterator[RunningProcess]:
    """Run `command` for the length of the block, which begins when `ready()` is true.

    `env` is the whole environment (None: ours). At the end the program gets SIGTERM, `grace_seconds` later SIGKILL,
    and so does everything it has started. `streams` and `imports` are those of `spawn_supervised`.

    Raises:
        ProcessFailedError: it ended early, or was not ready in time.
    """
    directory = Path(tempfile.mkdtemp(prefix="process-"))
    lifetime, keep_alive = os.pipe()
    try:
        process = spawn_supervised(
            *(command, lifetime, directory / "log"),
            remove=directory,
            grace_seconds=grace_seconds,
            env=env,
            cwd=cwd,
            streams=streams,
            imports=imports,
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
        process.await_supervisor()
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
    streams: Sequence[int] = (),
    imports: tuple[str, ...] = (),
) -> RunningProcess:
    """Start `command`; it ends, and the directory `remove` with it, when the pipe behind `lifetime` is closed.

    `pass_fds` are descriptors for the supervisor to hold until its end, `streams` standard input, output and error of
    a Python program (else nothing, and the log), and `imports` our own modules that it shall find imported.
    """
    environment = os.environ if env is None else env
    warm = None if pass_fds else _warm_command(command, environment)
    report, report_writer = os.pipe()
    supervisor = None
    with log.open("wb") as output, os.fdopen(report_writer, "wb", buffering=0) as told:
        if warm is not None:
            request = Request(warm, dict(environment), str(cwd or Path.cwd()), grace_seconds, str(remove))
            with _warming_up:
                # Threads that start the first programs at the same time share one parent.
                warm_python = _warm_python(imports)
            warm_python.start(request, [lifetime, told.fileno(), output.fileno(), *streams])
        else:
            assert not streams, "only a program that is forked has streams of its own"
            supervisor = subprocess.Popen(  # noqa: S603 - the caller's command is the purpose
                [sys.executable, "-I", "-S", SUPERVISOR, str(grace_seconds), remove, *command],
                stdin=lifetime,
                stdout=told,
                stderr=output,
                env=env,
                cwd=cwd,
                start_new_session=True,
                pass_fds=pass_fds,
            )
    process = RunningProcess(0, log, os.fdopen(report, "rb", buffering=0), supervisor)
    first = process._report.readline()
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
