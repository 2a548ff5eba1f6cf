"""Waiting in tests for what other processes do: bounded, and without a guess of how long it takes."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], bool], what: str, within_seconds: float = 120, *, poll_seconds: float = POLL_SECONDS
) -> None:
    """Return when `condition()` is true, which is asked every `poll_seconds`; `what` names it in the failure.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_seconds} s: {what}"
        time.sleep(poll_seconds)


def is_running(pid: int) -> bool:
    """Return whether a process lives; one that has died and waits for its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform != "linux":
        return True
    try:
        # proc_pid_stat(5): the state follows the command's name, which may hold anything and ends at the last ")".
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
