"""Runs one command for as long as its standard input stays open, then leaves nothing of it: no process, no directory.

The starter, or the process that holds the other end of the pipe, may die in any way: the kernel closes the pipe. A
program of its own and free of imports from here, because it has to outlive any death of the process that started it.

    supervisor.py GRACE_SECONDS DIRECTORY COMMAND...

Standard output tells the starter `pid N` and, when the command has ended, `exit N` (128 + N if signal N ended it); the
command's own output goes to standard error. When standard input ends, the command gets SIGTERM, GRACE_SECONDS later
SIGKILL, what it started gets SIGKILL, and DIRECTORY is removed.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
REMOVE_ATTEMPTS = 50
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Child(Protocol):
    """The command's process: a `subprocess.Popen`, or what has its methods."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def supervise(child: Child | None, grace_seconds: float, directory: Path) -> None:
    """Tell how `child` (None: it did not start) has ended, and clean up when standard input ends."""
    os.set_blocking(0, False)
    wake, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer)
    for number in (signal.SIGCHLD, *STOP_SIGNALS):
        # The number arrives at `wake`; the handler only has to exist.
        signal.signal(number, lambda _number, _frame: None)
    try:
        if child is None:
            _tell("exit 127")
        else:
            _tell(f"pid {child.pid}")
            stopped = _wait(wake, child)
            _tell(f"exit {_end(child, grace_seconds)}")
            if stopped:
                return
        _wait(wake, None)
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a directory in which another process may still be creating files, until it notices that we do."""
    for _ in range(REMOVE_ATTEMPTS):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)


def become_subreaper() -> None:
    """Let everything that the command leaves behind become our child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(supervisor: int) -> None:
    """Let this process, a child of `supervisor`, be killed when that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(1)


def _start(command: list[str]) -> subprocess.Popen[bytes] | None:
    become_subreaper()
    supervisor = os.getpid()
    try:
        return subprocess.Popen(  # noqa: S603 - the caller's command is the purpose
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            start_new_session=True,
            preexec_fn=lambda: die_with(supervisor),  # noqa: PLW1509 - there are no other threads here
        )
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        return None


def _wait(wake: int, child: Child | None) -> bool:
    """Wait for the end of our lifetime (True) or of `child` (False)."""
    # Asked first, because select() does not tell of the end of a named pipe that had come before we opened it.
    while not _lifetime_is_over():
        if child is not None and child.poll() is not None:
            return False
        readable, _, _ = select.select([0, wake], [], [])
        if wake in readable and set(os.read(wake, 4096)) & set(STOP_SIGNALS):
            return True
    return True


def _lifetime_is_over() -> bool:
    try:
        return not os.read(0, 4096)
    except BlockingIOError:
        return False


def _tell(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{text}\n".encode())


def _end(child: Child, grace_seconds: float) -> int:
    if child.poll() is None and grace_seconds > 0:
        _signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_seconds)
    _signal_group(child.pid, signal.SIGKILL)
    status = child.wait()
    _end_orphans()
    return status if status >= 0 else 128 - status


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end_orphans() -> None:
    """Kill and reap what is left of the command's descendants, also those that made a session of their own."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while True:
        if children.exists():
            for pid in children.read_text().split():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if reaped == 0:
            time.sleep(0.005)


if __name__ == "__main__":
    supervise(_start(sys.argv[3:]), float(sys.argv[1]), Path(sys.argv[2]))
