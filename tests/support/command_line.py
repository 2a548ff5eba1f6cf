"""Runs the command as its user does: a process of its own, which meets a real service over HTTP."""

import asyncio
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from app.cli.main import main
from app.config.settings import PROJECT_ROOT

# What works on the database takes a second and more to import: one process does, and every command is forked from it.
_MAINTENANCE = multiprocessing.get_context("forkserver")
_MAINTENANCE.set_forkserver_preload(
    [__name__, *(f"app.cli.maintenance.{name}" for name in ("database", "keys", "reclassification", "users"))]
)


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


async def maintain(*arguments: str, cwd: Path, **environment: str) -> Done:
    """Run a command of `image-classifier` that works on the database, to its end."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("output", "messages")]
        process = _MAINTENANCE.Process(target=_main, args=(arguments, cwd, environment, streams))
        process.start()
        await asyncio.to_thread(process.join)
        assert process.exitcode is not None
        done = Done(process.exitcode, *(each.read_text("utf-8") for each in streams))
        process.close()
    return done


def _main(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], streams: Sequence[Path]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update({"PATH": os.defpath, "COLUMNS": "200", **environment})
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding="utf-8")
    sys.argv = ["image-classifier", *arguments]
    main()
