"""Claims: a task belongs to the process that changed its row first, for as long as that process is not stalled.

A claim names the process, whose heartbeat the others see (app/database/heartbeat.py), and it is a random mark in the
row: a run that has lost its claim can change nothing any more, so a task has one result however often it was begun.
"""

import random
import secrets
import time
from collections.abc import Callable, Collection, Sequence

from loguru import logger
from sqlalchemy import Row, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.errors import ModelRefused, ModelRejectedRequest
from app.clock import utc_now
from app.database.heartbeat import Heartbeat
from app.database.statements import can_skip_locked, execute
from app.database.tables.inference import InferenceTask
from app.database.transactions import write
from app.errors import AppError, InvalidRequest, NotFound
from app.observability import metrics
from app.services.tasks.record import Rank, Task, TaskStatus, database_time, record_changes, select_tasks

# Between two looks at the tasks of other processes, however often a wake-up makes this one look for new tasks.
WATCH_SECONDS = 0.5
# Pauses before the second attempt, the third, ...: doubled each time, with jitter.
BACKOFF_FIRST_SECONDS = 2.0
BACKOFF_MAX_SECONDS = 120.0
MESSAGE_MAX_LENGTH = 500

# They say something about the picture or the request: another attempt would end like this one.
_FINAL = (InvalidRequest, NotFound, ModelRefused, ModelRejectedRequest)


class ClaimLostError(Exception):
    """The task belongs to this run no longer: it was deleted with its image, or another process has taken it over."""


class TaskClaims:
    """Claims and ends runs of tasks.

    The heartbeat must be held while there are any, and while `sees_others`: only a process that beats may judge others.

    Args:
        engine: the database.
        heartbeat: that of this process.
        max_attempts: how often a task is begun before it counts as failed.
        on_change: tells those who listen that an event was committed; never fails.
    """

    def __init__(
        self, engine: AsyncEngine, heartbeat: Heartbeat, *, max_attempts: int, on_change: Callable[[], None]
    ) -> None:
        self.heartbeat = heartbeat
        self.sees_others = False
        self._engine = engine
        self._max_attempts = max_attempts
        self._on_change = on_change
        self._next_watch = 0.0
        self._is_due = and_(
            InferenceTask.status == TaskStatus.PENDING.value,
            InferenceTask.due_at <= database_time(engine.dialect.name),
        )

    async def claim(self, limit: int, running: Collection[Task] = ()) -> list[Task]:
        """Claim up to `limit` tasks: first those whose process is stalled, then the oldest of each rank that are due.

        The attempt is counted. A task that has used up its attempts without an end (its process was killed each time)
        is ended as failed.

        Args:
            limit: how many at most.
            running: what this process runs. Anything else in its name is claimed again: its claim or its end was
                committed without an answer, or could not be noted.

        Raises:
            DatabaseUnavailable, ServerBusy: as `write` does; nothing is logged.
        """
        mark = secrets.token_hex(16)
        watches = time.monotonic() >= self._next_watch
        ids: list[str] = []

        async def claim_rows(connection: AsyncConnection) -> list[Task]:
            is_ours = and_(InferenceTask.id.in_(ids), InferenceTask.claim == mark)
            if ids and (known := await select_tasks(connection, is_ours)):
                # Committed by an attempt whose answer was lost.
                return known
            lost = await self._find_lost(connection, limit, running) if watches else []
            ids[:] = [*(row.id for row in lost), *await self._lock_due(connection, limit - len(lost))]
            if not ids:
                return []
            # The claim is never seen without a beat.
            await execute(connection, self.heartbeat.renewal)
            tasks = await self._take(connection, ids, mark, lost_claims=[row.claim for row in lost])
            await record_changes(connection, tasks)
            return tasks

        tasks = await write(self._engine, claim_rows, quietly=True)
        if watches:
            self._next_watch = time.monotonic() + WATCH_SECONDS
        if tasks:
            self._on_change()
        for task in tasks:
            if task.status is TaskStatus.FAILED:
                metrics.count(metrics.TASKS_FAILED)
        return [task for task in tasks if task.status is TaskStatus.PROCESSING]

    async def _find_lost(
        self, connection: AsyncConnection, limit: int, running: Collection[Task]
    ) -> list[Row[str, str | None, bool]]:
        """Return id and claim of tasks that no process runs any more; note whether other processes run any."""
        row = InferenceTask
        is_lost = or_(row.runner == self.heartbeat.process_id, self.heartbeat.is_stalled(row.runner)).label("is_lost")
        others = (
            select(row.id, row.claim, is_lost)
            .where(row.status == TaskStatus.PROCESSING.value, row.claim.not_in([task.claim for task in running]))
            .order_by(is_lost.desc(), row.due_at)
            .limit(limit)
        )
        found = (await connection.execute(others)).all()
        self.sees_others = bool(found)
        return [each for each in found if each.is_lost] if self.heartbeat.can_judge else []

    async def _lock_due(self, connection: AsyncConnection, limit: int) -> Sequence[str]:
        """Return the ids of the first due tasks, and lock their rows; rows that another process locks are left out.

        SQLite has one writer, and an older server waits for the other process.
        """
        ids: list[str] = []
        # One by one: each walks along the index, and sorts nothing.
        for rank in Rank:
            if len(ids) < limit:
                is_next = InferenceTask.priority == rank, self._is_due
                oldest = select(InferenceTask.id).where(*is_next).order_by(InferenceTask.due_at).limit(limit - len(ids))
                locked = oldest.with_for_update(skip_locked=can_skip_locked(connection.dialect))
                ids += (await connection.scalars(locked)).all()
        return ids

    async def _take(
        self, connection: AsyncConnection, ids: Sequence[str], mark: str, *, lost_claims: Sequence[str | None]
    ) -> list[Task]:
        """Claim those of the tasks that still are as they were found; return them."""
        # Lost ones are not locked, and not every server locks the others.
        is_lost = and_(InferenceTask.status == TaskStatus.PROCESSING.value, InferenceTask.claim.in_(lost_claims))
        is_free = and_(InferenceTask.id.in_(ids), or_(self._is_due, is_lost))
        has_attempts = InferenceTask.attempts < self._max_attempts
        changed = {"runner": self.heartbeat.process_id, "claim": mark, "updated_at": utc_now()}
        begun = {**changed, "status": TaskStatus.PROCESSING.value, "attempts": InferenceTask.attempts + 1}
        claimed = await connection.execute(update(InferenceTask).where(is_free, has_attempts).values(**begun))
        if claimed.rowcount < len(ids):
            failed = {
                **changed,
                "status": TaskStatus.FAILED.value,
                "error_code": AppError.code,
                "error_message": "The task was begun several times and never came to an end.",
            }
            await connection.execute(update(InferenceTask).where(is_free, ~has_attempts).values(**failed))
        return await select_tasks(connection, InferenceTask.id.in_(ids), InferenceTask.claim == mark)

    async def complete(self, connection: AsyncConnection, task: Task, result_id: int) -> None:
        """Note the result; part of the transaction that stores it. Call `announce` when that is committed.

        Raises:
            ClaimLostError: the task belongs to this run no longer; nothing may be stored.
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
        """Let other processes run at once what this one has begun and will not finish; the attempt does not count."""

        async def release(connection: AsyncConnection) -> None:
            for task in tasks:
                await self._end(
                    connection,
                    task,
                    status=TaskStatus.PENDING.value,
                    due_at=database_time(connection.dialect.name),
                    attempts=InferenceTask.attempts - 1,
                )

        if tasks:
            await write(self._engine, release)
            self._on_change()

    async def _end(self, connection: AsyncConnection, task: Task, **values: object) -> bool:
        """End a run; return False if the task belongs to it no longer."""
        row = InferenceTask
        is_held = and_(row.id == task.id, row.claim == task.claim, row.status == TaskStatus.PROCESSING.value)
        ended = {"updated_at": utc_now(), "runner": None, "claim": None, **values}
        if not (await connection.execute(update(row).where(is_held).values(**ended))).rowcount:
            return False
        await record_changes(connection, await select_tasks(connection, row.id == task.id))
        return True


def _pause(attempts: int, at_least_seconds: float) -> int:
    """Seconds until the next attempt after so many: exponential, jittered, and not before the model wants it."""
    backoff = random.uniform(0.5, 1) * min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** (attempts - 1))
    return int(max(backoff, min(at_least_seconds, BACKOFF_MAX_SECONDS)) + 0.5)
