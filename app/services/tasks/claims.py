"""Running tasks: whoever changes a due row first has the task, and keeps it for as long as it renews the row.

A run that is not renewed is due again, for anybody. Its claim is a random mark in the row: whoever has lost it can
change nothing any more, so a task has one result however often it was begun.
"""

import random
import secrets
from collections.abc import Callable, Collection, Sequence

from loguru import logger
from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.errors import ModelRefused, ModelRejectedRequest
from app.clock import utc_now
from app.database.statements import can_skip_locked
from app.database.tables.accounts import InferenceTask
from app.database.transactions import write
from app.errors import AppError, InvalidRequest, NotFound
from app.observability import metrics
from app.services.tasks.record import UNFINISHED, Task, TaskStatus, database_time, record_changes, select_tasks

# A few missed renewals, such as a database that restarts; longer would only let the tasks of a dead process wait.
LEASE_SECONDS = 10
RENEW_SECONDS = 2.0
# Pauses before the second attempt, the third, ...: doubled each time, with jitter.
BACKOFF_FIRST_SECONDS = 2.0
BACKOFF_MAX_SECONDS = 120.0
MESSAGE_MAX_LENGTH = 500

# They say something about the picture or the request: another attempt would end like this one.
_FINAL = (InvalidRequest, NotFound, ModelRefused, ModelRejectedRequest)


class ClaimLostError(Exception):
    """The task is no longer ours: deleted with its image, or run by another since we were silent for too long."""


class TaskClaims:
    """Claims, renews and ends runs of tasks.

    Args:
        engine: the database.
        max_attempts: how often a task is begun before it counts as failed.
        on_change: tells those who listen that an event was committed; never fails.
    """

    def __init__(self, engine: AsyncEngine, *, max_attempts: int, on_change: Callable[[], None]) -> None:
        self._engine = engine
        self._max_attempts = max_attempts
        self._on_change = on_change
        self._now = database_time(engine.dialect.name)
        self._lease_end = database_time(engine.dialect.name, LEASE_SECONDS)
        self._is_due = and_(
            InferenceTask.status.in_([status.value for status in UNFINISHED]), InferenceTask.due_at <= self._now
        )

    async def claim(self, limit: int) -> list[Task]:
        """Claim up to `limit` due tasks: those whose process was silent for too long first, then the oldest.

        The attempt is counted. A task that has used up its attempts without an end (its process was killed each time)
        is ended as failed.

        Raises:
            DatabaseUnavailable, ServerBusy: as `write` does; nothing is logged.
        """
        mark = secrets.token_hex(16)

        async def claim_due(connection: AsyncConnection) -> list[Task]:
            ids = await self._lock_due(connection, limit)
            if not ids:
                return []
            # Again, for a server that has not locked the rows.
            is_due = and_(InferenceTask.id.in_(ids), self._is_due)
            changed = {"runner": mark, "updated_at": utc_now()}
            claimed = await connection.execute(
                update(InferenceTask)
                .where(is_due, InferenceTask.attempts < self._max_attempts)
                .values(
                    **changed,
                    status=TaskStatus.PROCESSING.value,
                    attempts=InferenceTask.attempts + 1,
                    due_at=self._lease_end,
                )
            )
            if claimed.rowcount < len(ids):
                await connection.execute(
                    update(InferenceTask)
                    .where(is_due, InferenceTask.attempts >= self._max_attempts)
                    .values(
                        **changed,
                        status=TaskStatus.FAILED.value,
                        error_code=AppError.code,
                        error_message="The task was begun several times and never came to an end.",
                    )
                )
            tasks = await select_tasks(connection, InferenceTask.id.in_(ids), InferenceTask.runner == mark)
            await record_changes(connection, tasks)
            return tasks

        tasks = await write(self._engine, claim_due, quietly=True)
        if tasks:
            self._on_change()
        for task in tasks:
            if task.status is TaskStatus.FAILED:
                metrics.count(metrics.TASKS_FAILED)
        return [task for task in tasks if task.status is TaskStatus.PROCESSING]

    async def _lock_due(self, connection: AsyncConnection, limit: int) -> list[str]:
        """Return the ids of up to `limit` due tasks, and lock their rows; rows that another process locks are left out.

        SQLite has one writer, and an older server waits for the other process.
        """
        ids: list[str] = []
        # A query for each status, so that the index gives the rows in their order.
        for status in (TaskStatus.PROCESSING, TaskStatus.PENDING):
            if len(ids) < limit:
                query = (
                    select(InferenceTask.id)
                    .where(InferenceTask.status == status.value, InferenceTask.due_at <= self._now)
                    .order_by(InferenceTask.due_at)
                    .limit(limit - len(ids))
                    .with_for_update(skip_locked=can_skip_locked(connection.dialect))
                )
                ids += (await connection.scalars(query)).all()
        return ids

    async def renew(self, tasks: Collection[Task]) -> None:
        """Keep runs for another `LEASE_SECONDS`."""

        async def extend(connection: AsyncConnection) -> None:
            await connection.execute(update(InferenceTask).where(_are_still_held(tasks)).values(due_at=self._lease_end))

        if tasks:
            await write(self._engine, extend)

    async def complete(self, connection: AsyncConnection, task: Task, result_id: int) -> None:
        """Note the result; part of the transaction that stores it. Call `announce` when that is committed.

        Raises:
            ClaimLostError: the task is no longer ours; nothing may be stored.
        """
        if not await self._end(connection, task, status=TaskStatus.COMPLETED.value, result_id=result_id):
            raise ClaimLostError

    def announce(self) -> None:
        """Count a task that is completed, and tell those who listen that there are new events."""
        metrics.count(metrics.TASKS_COMPLETED)
        self._on_change()

    async def fail(self, task: Task, error: Exception) -> None:
        """End a run without a result: the task waits for its next attempt, or has failed for good."""
        told = error if isinstance(error, AppError) else AppError()
        is_final = isinstance(error, _FINAL) or task.attempts >= self._max_attempts
        pause = _pause(task.attempts, told.retry_after_seconds or 0)

        async def end(connection: AsyncConnection) -> bool:
            if is_final:
                message = told.text[:MESSAGE_MAX_LENGTH]
                return await self._end(
                    connection, task, status=TaskStatus.FAILED.value, error_code=told.code, error_message=message
                )
            due_at = database_time(connection.dialect.name, pause)
            return await self._end(connection, task, status=TaskStatus.PENDING.value, due_at=due_at)

        if await write(self._engine, end):
            metrics.count(metrics.TASKS_FAILED if is_final else metrics.TASKS_RETRIED)
            outlook = "for good" if is_final else f"next in {pause} s"
            logger.warning("task {}: attempt {} failed ({}), {}", task.id, task.attempts, told.code, outlook)
            self._on_change()

    async def give_back(self, tasks: Sequence[Task]) -> None:
        """Let others run at once what we have begun and will not finish; the attempt does not count."""

        async def release(connection: AsyncConnection) -> None:
            for task in tasks:
                await self._end(
                    connection,
                    task,
                    status=TaskStatus.PENDING.value,
                    due_at=self._now,
                    attempts=InferenceTask.attempts - 1,
                )

        if tasks:
            await write(self._engine, release)
            self._on_change()

    async def _end(self, connection: AsyncConnection, task: Task, **values: object) -> bool:
        """End our run; return False if it is no longer ours."""
        ended = await connection.execute(
            update(InferenceTask).where(_are_still_held([task])).values(updated_at=utc_now(), runner=None, **values)
        )
        if not ended.rowcount:
            return False
        await record_changes(connection, await select_tasks(connection, InferenceTask.id == task.id))
        return True


def _are_still_held(tasks: Collection[Task]) -> ColumnElement[bool]:
    return and_(
        InferenceTask.id.in_([task.id for task in tasks]),
        InferenceTask.runner.in_({task.claim for task in tasks}),
        InferenceTask.status == TaskStatus.PROCESSING.value,
    )


def _pause(attempts: int, at_least_seconds: float) -> int:
    """Seconds until the next attempt after so many: exponential, jittered, and not before the model wants it."""
    backoff = random.uniform(0.5, 1) * min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** (attempts - 1))
    return int(max(backoff, min(at_least_seconds, BACKOFF_MAX_SECONDS)) + 0.5)
