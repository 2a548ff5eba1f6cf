"""Runs the command as its user does: a process of its own, which meets a real service over HTTP."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from app.config.settings import PROJECT_ROOT
from tests.servers.processes import start_process
from tests.support.running import IMPORTS


class Done(NamedTuple):
    status: int
    output: str
    messages: str


async def run(
    *arguments: str | Path,
    cwd: Path,
    interrupt_when: Callable[[], Awaitable[object]] | None = None,
    stdin: int | None = None,
    **environment: str,
) -> Done:
    """Run `image-classifier` to its end; `interrupt_when` returns at the moment to press Ctrl-C.

    `stdin` is a file descriptor, such as that of a terminal (None: there is nothing to read).
    """
    command = [sys.executable, "-m", "app.cli", *arguments]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), "COLUMNS": "200", **environment}
    with tempfile.TemporaryFile() as nothing, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        streams = [nothing.fileno() if stdin is None else stdin, output.fileno(), messages.fileno()]
        with start_process(
            command, ready=lambda: True, env=variables, cwd=cwd, streams=streams, imports=IMPORTS
        ) as process:
            if interrupt_when is not None:
                await interrupt_when()
                process.send_signal(signal.SIGINT)
            status = await asyncio.to_thread(process.wait, None)
        assert status is not None
        texts = []
        for each in (output, messages):
            each.seek(0)
            texts.append(each.read().decode())
    return Done(status, *texts)
