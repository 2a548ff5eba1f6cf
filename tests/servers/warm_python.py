"""A Python that has imported the service's libraries, and becomes each program that it is asked for by forking.

A start of the service takes 1.4 s of a core, 0.9 s of which are imports of other people's packages; the tests start it
some hundred times. Nothing of the service itself is imported here: each program does that, with its own environment.
Only for programs that ask for it (`imports` of tests/servers/processes.py), such as the command line.

Run by `tests/servers/processes.py` with a socket. A request is JSON (`Request`) with descriptors: standard input,
output and error of a supervisor (tests/servers/supervisor.py), which is forked and forks the program, and those of the
program where they are other ones.
"""

import dataclasses
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.servers.supervisor import become_subreaper, die_with, supervise

# What `import app.main`, its clients and its start import of other people's. Not what looks at the environment
# (prometheus_client) or the working directory (gunicorn) when it is imported, nor what starts threads (numpy).
LIBRARIES = (
    *("aiomysql", "aiosqlite", "alembic.command", "alembic.autogenerate", "cryptography.x509", "email_validator"),
    *(
        "fastapi",
        "fastapi_offline",
        "http_message_signatures",
        "httpx2",
        "jwt",
        "limits.aio.strategies",
        "loguru",
        "openai",
        "PIL.Image",
    ),
    *("openai.resources.chat.completions", "pwdlib.hashers.argon2", "pydantic_settings", "sqlalchemy.dialects.mysql"),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "starlette.middleware.cors"),
    *("uvicorn.protocols.http.httptools_impl", "uvloop"),
)
# Of the variables that Python reads at its own start, those that can be heeded later.
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
SEARCH_PATH = "PYTHONPATH"
ENCODING = "PYTHONIOENCODING"
HEEDED = frozenset({NO_BYTECODE, SEARCH_PATH, ENCODING})
LARGEST_REQUEST = 128 * 1024
STANDARD_STREAMS = 3


@dataclass(frozen=True, slots=True)
class Request:
    """A program to start: `command` is a Python script or `-m` and a module, with arguments."""

    command: list[str]
    environment: dict[str, str]
    cwd: str
    grace_seconds: float
    directory: str

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()


@dataclass(slots=True)
class ForkedProcess:
    """A child process, with the part of `subprocess.Popen` that a supervisor needs."""

    pid: int
    _status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status (-N: ended by signal N), or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.005)
        return status


def serve(requests: socket.socket) -> Callable[[], object] | None:
    """Fork for each request until there are no more; return what a forked process is to do.

    It returns to the caller's end, so that the interpreter ends a program as it always does.
    """
    # The kernel reaps supervisors.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 2 * STANDARD_STREAMS)
        if not data:
            return None
        if os.fork() == 0:
            requests.close()
            return _start(Request(**json.loads(data)), descriptors)
        for each in descriptors:
            os.close(each)


def _start(request: Request, descriptors: list[int]) -> Callable[[], object]:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    own, streams = descriptors[:STANDARD_STREAMS], descriptors[STANDARD_STREAMS:]
    _become_standard_streams(own)
    become_subreaper()
    supervisor = os.getpid()
    program = os.fork()
    if program == 0:
        die_with(supervisor)
        return _program(request, streams)
    for each in streams:
        os.close(each)
    supervise(ForkedProcess(program), request.grace_seconds, Path(request.directory))
    # Nothing is left to do, and to end an interpreter with all of these modules takes a tenth of a second.
    os._exit(0)


def _become_standard_streams(descriptors: list[int]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _program(request: Request, streams: list[int]) -> Callable[[], object]:
    os.setsid()
    # What a script starts in the background ignores Ctrl-C; the program would inherit that from the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _become_standard_streams(streams or [os.open(os.devnull, os.O_RDONLY), os.dup(2), os.dup(2)])
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.dont_write_bytecode = bool(request.environment.get(NO_BYTECODE))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=request.environment.get(ENCODING, "utf-8"))
    sys.path[1:1] = filter(None, request.environment.get(SEARCH_PATH, "").split(os.pathsep))
    time.tzset()
    if request.command[0] == "-m":
        module, *arguments = request.command[1:]
        sys.path[0] = request.cwd
        sys.argv = [module, *arguments]
        return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)
    script = request.command[0]
    sys.path[0] = str(Path(script).parent)
    sys.argv = list(request.command)
    return lambda: runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    descriptor, *imports = sys.argv[1:]
    for name in (*LIBRARIES, *imports):
        importlib.import_module(name)
    # What is here stays: no collection of a program has to look at it, and so the memory stays shared.
    gc.collect()
    gc.freeze()
    rest = serve(socket.socket(fileno=int(descriptor)))
    if rest is not None:
        rest()
