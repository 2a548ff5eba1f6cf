"""Runs the command as its user does: a process of its own, which meets a real service over HTTP."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from app.config.settings import PROJECT_ROOT


class Done(NamedTuple):
    status: int
    output: str
    messages: str


async def run(
    *arguments: str | Path,
    cwd: Path,
    interrupt_when: Callable[[], Awaitable[object]] | None = None,
    stdin: int = subprocess.DEVNULL,
    **environment: str,
) -> Done:
    """Run `image-classifier` to its end; `interrupt_when` returns at the moment to press Ctrl-C.

    `stdin` is a file descriptor, such as that of a terminal.
    """
    # What a script starts in the background ignores Ctrl-C; the command would inherit that from these tests.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli", *arguments),
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), "COLUMNS": "200", **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    if interrupt_when is not None:
        await interrupt_when()
        process.send_signal(signal.SIGINT)
    output, messages = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, output.decode(), messages.decode())
