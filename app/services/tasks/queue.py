"""How the id of a new task gets to who runs it: inside the process, or through Redis to any. It may get lost."""

import asyncio
import hashlib
import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from app.config.settings import Settings

if TYPE_CHECKING:
    from taskiq import InMemoryBroker

Run = Callable[[str], Awaitable[None]]

TASK_NAME = "inference"
# Not that of the cache, whose keys are deleted by it.
KEY_PREFIX = "ic1-tasks"


class TaskQueue(Protocol):
    """Takes ids at one end; at the other, of the processes that listen one is told each."""

    async def announce(self, task_id: str) -> None:
        """Tell somebody about a task; never fails."""

    async def listen(self, run: Run, *, concurrency: int) -> None:
        """Call `run` with ids from now on, for at most so many tasks at once."""

    async def close(self) -> None:
        """Tell this process nothing more; waits until `run` has returned."""


class NoQueue:
    """Nobody is told: who runs tasks looks for them."""

    async def announce(self, task_id: str) -> None:
        """Do nothing."""

    async def listen(self, run: Run, *, concurrency: int) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class InsideQueue:
    """taskiq's broker in memory: a task that is asked for in this process is begun in this process."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._broker: InMemoryBroker | None = None
        self._opening = asyncio.Lock()

    async def announce(self, task_id: str) -> None:
        """Begin a task in the background."""
        if self._run is None:
            return
        async with self._opening:
            if self._broker is None:
                self._broker = await self._open(self._run)
        task = self._broker.find_task(TASK_NAME)
        if task is not None:
            await task.kiq(task_id)

    async def listen(self, run: Run, *, concurrency: int) -> None:
        """Call `run` from now on; it has to keep to `concurrency` itself."""
        self._run = run

    async def close(self) -> None:
        """Wait for what was begun."""
        self._run = None
        if self._broker is not None:
            await self._broker.wait_all()
            await self._broker.shutdown()

    async def _open(self, run: Run) -> "InMemoryBroker":
        # Loaded by the first task: it takes 10 MB, and a fifth of a second of which the event loop shall have its part.
        taskiq = await asyncio.to_thread(importlib.import_module, "taskiq")
        broker: InMemoryBroker = taskiq.InMemoryBroker()

        # A plain function: taskiq renames what it is given, which a method does not bear.
        async def receive(task_id: str) -> None:
            await run(task_id)

        broker.register_task(receive, task_name=TASK_NAME)
        await broker.startup()
        return broker


def create_queue(settings: Settings, *, key_space: str, runs_tasks: bool) -> TaskQueue:
    """Return the queue that the settings ask for.

    Args:
        settings: of the service.
        key_space: what tells this installation's keys in Redis from those of others.
        runs_tasks: this process runs tasks.
    """
    address = settings.cache.redis_url.get_secret_value()
    if address:
        # Imported only where it is configured.
        from app.services.tasks.redis_queue import RedisQueue

        digest = hashlib.blake2s(key_space.encode(), digest_size=4).hexdigest()
        return RedisQueue(address, name=f"{KEY_PREFIX}:{digest}")
    return InsideQueue() if runs_tasks else NoQueue()
