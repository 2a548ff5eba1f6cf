"""Runs tasks in this process, some at once. A message with an id only makes it look sooner than it would by itself.

Every second or so it looks for what is due: what was asked for while no message got through, what waits for another
attempt, and what a process had begun that is gone.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Protocol

from loguru import logger
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import AppError
from app.observability.tracing import span
from app.services.tasks.claims import RENEW_SECONDS, ClaimLostError, TaskClaims
from app.services.tasks.record import Task

LOOK_INTERVAL_SECONDS = 1.0
# Processes that look at the same time shall not all want the same tasks.
LOOK_AHEAD = 4
# Below the ten seconds that Docker gives a container to end.
GRACE_SECONDS = 5.0


class Inference(Protocol):
    """What runs a task: it looks at the picture, and stores one result."""

    async def infer(
        self,
        account_id: int,
        image_id: int,
        model_name: str,
        *,
        task_id: str | None = None,
        on_saved: Callable[[AsyncConnection, int], Awaitable[None]] | None = None,
    ) -> object:
        """Store a result; `on_saved` gets its id, in the same transaction, and undoes it by raising."""


class TaskRunner:
    """Runs up to `concurrency` tasks at once, between `start` and `close`."""

    def __init__(self, runs: TaskClaims, inference: Inference, *, concurrency: int) -> None:
        self._runs = runs
        self._inference = inference
        self._concurrency = concurrency
        self._running: dict[str, tuple[Task, asyncio.Task[None]]] = {}
        self._inbox: dict[str, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._is_closing = False
        self._there_is_more = False
        self._next_look = 0.0
        self._fails = False
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to run tasks."""
        self._loops = [
            asyncio.create_task(self._claim_for_ever(), name="tasks-claim"),
            asyncio.create_task(self._renew_for_ever(), name="tasks-renew"),
        ]

    async def run(self, task_id: str) -> None:
        """Run a task if there is room for it and nobody else runs it; return when it has ended."""
        if self._is_closing or task_id in self._running or task_id in self._inbox or len(self._inbox) >= self._free:
            # Whoever has room finds it.
            self._there_is_more = True
            return
        handled = asyncio.get_running_loop().create_future()
        self._inbox[task_id] = handled
        self._wake.set()
        await handled

    async def close(self) -> None:
        """Claim nothing more, wait a little for what runs, and give back what does not end in time."""
        if not self._loops:
            return
        claiming, renewing = self._loops
        self._is_closing = True
        self._wake.set()
        await asyncio.gather(claiming, return_exceptions=True)
        for handled in self._inbox.values():
            _resolve(handled)
        if executions := [execution for _, execution in self._running.values()]:
            await asyncio.wait(executions, timeout=GRACE_SECONDS)
        unfinished = [task for task, execution in self._running.values() if execution.cancel()]
        await asyncio.gather(*(execution for _, execution in self._running.values()), return_exceptions=True)
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        try:
            await self._runs.give_back(unfinished)
        except (AppError, SQLAlchemyError, OSError) as error:
            logger.warning("tasks that were begun wait until they are due again ({})", type(error).__name__)
        if unfinished:
            logger.info("{} tasks that were begun were given back", len(unfinished))

    @property
    def _free(self) -> int:
        return self._concurrency - len(self._running)

    async def _claim_for_ever(self) -> None:
        while not self._is_closing:
            try:
                # Without room there is nothing to look for: the end of a run wakes us.
                async with asyncio.timeout(max(0.0, self._next_look - time.monotonic()) if self._free else None):
                    await self._wake.wait()
            except TimeoutError:
                # Time to look.
                self._there_is_more = True
            self._wake.clear()
            if self._free and not self._is_closing:
                await self._claim_some()

    async def _claim_some(self) -> None:
        told = list(self._inbox)[: self._free]
        handled = {task_id: self._inbox.pop(task_id) for task_id in told}
        try:
            for task in await self._runs.claim([*told, *await self._look(besides=told)]):
                self._start(task, handled.pop(task.id, None))
        except Exception as error:  # noqa: BLE001 - whatever it was, the next look must come
            self._put_off_looking()
            if not self._fails:
                self._fails = True
                is_ours = isinstance(error, (AppError, SQLAlchemyError, OSError))
                logger.opt(exception=not is_ours).warning("tasks cannot be claimed ({})", type(error).__name__)
        else:
            self._fails = False
            if self._free and (self._inbox or self._there_is_more):
                self._wake.set()
        for future in handled.values():
            _resolve(future)

    async def _look(self, *, besides: Collection[str]) -> list[str]:
        """Return further ids of what is due, if it is time to look and there is room for them."""
        room = self._free - len(besides)
        if not room or not (self._there_is_more or time.monotonic() >= self._next_look):
            return []
        self._put_off_looking()
        task_ids = await self._runs.due(LOOK_AHEAD * self._concurrency)
        wanted = [task_id for task_id in task_ids if task_id not in self._running and task_id not in besides]
        if len(wanted) <= room:
            return wanted
        self._there_is_more = True
        return random.sample(wanted, room)

    def _put_off_looking(self) -> None:
        self._there_is_more = False
        self._next_look = time.monotonic() + random.uniform(0.75, 1.25) * LOOK_INTERVAL_SECONDS

    def _start(self, task: Task, handled: asyncio.Future[None] | None) -> None:
        execution = asyncio.create_task(self._execute(task), name=f"task-{task.id}")
        self._running[task.id] = task, execution
        execution.add_done_callback(partial(self._end, task.id, handled))

    def _end(self, task_id: str, handled: asyncio.Future[None] | None, _: asyncio.Task[None]) -> None:
        if not self._is_closing:
            del self._running[task_id]
        if handled is not None:
            _resolve(handled)
        self._wake.set()

    async def _execute(self, task: Task) -> None:
        try:
            with span("task", task_id=task.id, attempt=task.attempts):
                on_saved = partial(self._complete, task)
                await self._inference.infer(
                    task.user_id, task.image_id, task.model_name, task_id=task.id, on_saved=on_saved
                )
        except ClaimLostError:
            logger.info("task {} was deleted, or has been taken over", task.id)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and so may a bug
            # The result of a task that another has ended cannot be stored twice.
            if not isinstance(error, (AppError, IntegrityError)):
                logger.exception("task {} raised {}", task.id, type(error).__name__)
            await self._fail(task, error)
        else:
            self._runs.announce()

    async def _complete(self, task: Task, connection: AsyncConnection, result_id: int) -> None:
        await self._runs.complete(connection, task, result_id)

    async def _fail(self, task: Task, error: Exception) -> None:
        try:
            await self._runs.fail(task, error)
        except (AppError, SQLAlchemyError, OSError) as failure:
            # The run is not renewed any more, so it comes up again.
            logger.warning("the end of task {} cannot be noted ({})", task.id, type(failure).__name__)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._runs.renew([task for task, execution in self._running.values() if not execution.done()])
            except (AppError, SQLAlchemyError, OSError) as error:
                logger.warning("running tasks cannot be renewed ({})", type(error).__name__)


def _resolve(future: asyncio.Future[None]) -> None:
    # Who waits for it may have given up.
    if not future.done():
        future.set_result(None)
