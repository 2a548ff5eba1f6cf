"""Runs tasks in this process, some at once. It claims as many as it has room for when it is woken, and each second.

The look each second finds what no wake-up told of: a task made by a process that cannot reach this one, one that waits
for its next attempt, and one whose process was killed.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Protocol

from loguru import logger
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import AppError
from app.language.accept import Language
from app.observability.tracing import span
from app.runtime import background
from app.runtime.background import OutageLog
from app.services.tasks.claims import ClaimLostError, TaskClaims
from app.services.tasks.record import Task

LOOK_SECONDS = 1.0
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
        batch_item: str | None = None,
        language: Language | None = None,
        on_saved: Callable[[AsyncConnection, int], Awaitable[None]] | None = None,
    ) -> object:
        """Store a result; `on_saved` gets its id, in the same transaction, and undoes it by raising.

        `batch_item` is the photo's request in a batch, which may have the answer. It is described in `language`.
        """


class TaskRunner:
    """Runs up to `concurrency` tasks at once, for the length of `running`."""

    def __init__(self, claims: TaskClaims, inference: Inference, *, concurrency: int) -> None:
        self._claims = claims
        self._inference = inference
        self._concurrency = concurrency
        self._running: dict[asyncio.Task[None], Task] = {}
        self._woken = asyncio.Event()
        self._is_closing = False
        self._beating = ExitStack()
        self._outage = OutageLog("tasks cannot be claimed", recovered="tasks are claimed again")

    def wake(self) -> None:
        """Look for tasks now. Does not wait and never fails."""
        self._woken.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run tasks for the length of the block; at its end, wait a little for those begun, and give back the rest."""
        claiming = background.spawn(self._claim_until_closing(), name="tasks-claim")
        try:
            yield
        finally:
            self._is_closing = True
            self._woken.set()
            await asyncio.wait([claiming])
            await self._finish()

    async def _claim_until_closing(self) -> None:
        while not self._is_closing:
            self._woken.clear()
            room = self._concurrency - len(self._running)
            if room:
                with self._outage.guard():
                    for task in await self._claims.claim(room, self._running.values()):
                        self._start(task)
            self._beating.close()
            if self._running or self._claims.sees_others:
                self._beating.enter_context(self._claims.heartbeat.hold())
            # The end of a run wakes, too.
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS * random.uniform(0.75, 1.25)):
                    await self._woken.wait()

    def _start(self, task: Task) -> None:
        execution = background.spawn(self._execute(task), name=f"task-{task.id}")
        self._running[execution] = task
        execution.add_done_callback(self._end)

    def _end(self, execution: asyncio.Task[None]) -> None:
        del self._running[execution]
        self._woken.set()

    async def _finish(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=GRACE_SECONDS)
        unfinished = self._running.copy()
        await background.cancel(*unfinished)
        try:
            await self._claims.give_back(list(unfinished.values()))
        except (AppError, SQLAlchemyError, OSError) as error:
            logger.warning("tasks that were begun are left to other processes ({})", type(error).__name__)
        if unfinished:
            logger.info("{} tasks that were begun were given back", len(unfinished))
        self._beating.close()

    async def _execute(self, task: Task) -> None:
        try:
            with span("task", task_id=task.id, attempt=task.attempts):
                on_saved = partial(self._complete, task)
                await self._inference.infer(
                    task.user_id,
                    task.image_id,
                    task.model_name,
                    task_id=task.id,
                    batch_item=task.batch_item,
                    language=task.language,
                    on_saved=on_saved,
                )
        except ClaimLostError:
            logger.info("task {} was deleted, or has been taken over", task.id)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and so may a bug
            # The result of a task that another has ended cannot be stored twice.
            if not isinstance(error, (AppError, IntegrityError)):
                logger.exception("task {} raised {}", task.id, type(error).__name__)
            await self._fail(task, error)
        else:
            self._claims.announce()

    async def _complete(self, task: Task, connection: AsyncConnection, result_id: int) -> None:
        await self._claims.complete(connection, task, result_id)

    async def _fail(self, task: Task, error: Exception) -> None:
        try:
            await self._claims.fail(task, error)
        except (AppError, SQLAlchemyError, OSError) as failure:
            # This process does not run it any more, so it claims the task again.
            logger.warning("the end of task {} cannot be noted ({})", task.id, type(failure).__name__)
