"""Tasks as their owners see them: asked for now, looked at later, cancelled while they have not begun.

The row is the task, and the table is the queue: a wake-up carries nothing, and only saves time.
"""

import asyncio
import math
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables.accounts import User
from app.database.tables.batches import ModelBatch
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.database.transactions import read, write
from app.errors import AppError, ImageNotFound, TaskNotFound, TaskNotPending, TooManyTasks
from app.language.accept import Language
from app.observability import metrics, tracing
from app.services.idempotency.key import Keep
from app.services.idempotency.rows import insert_answer
from app.services.tasks.record import (
    UNFINISHED,
    Priority,
    Rank,
    Task,
    TaskStatus,
    database_time,
    record_changes,
    select_tasks,
    task_of,
    task_query,
)

# Of one account; the oldest due task of all accounts is run first, so those of other accounts wait behind them.
MAX_UNFINISHED = 1000
TOO_MANY_RETRY_AFTER_SECONDS = 10
# Prometheus waits 10 s for all figures, and wants the others just when the database is away.
GAUGE_TIMEOUT_SECONDS = 1.0

_ID = re.compile(r"[0-9a-f]{32}")


class TaskPage(NamedTuple):
    """Some of an account's tasks, newest first, and how many there are in all."""

    items: list[Task]
    total: int


class TaskService:
    """Keeps the tasks of all accounts.

    Args:
        engine: the database.
        wake: has the runners of this process and of others look for tasks now; never fails.
        on_change: tells those who listen that an event was committed; never fails.
        patience_seconds: how long a task of low priority may wait for a batch, by the name of its model.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        wake: Callable[[], None],
        on_change: Callable[[], None],
        patience_seconds: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self.wake = wake
        self._engine = engine
        self._on_change = on_change
        self._patience_seconds = patience_seconds

    async def submit(
        self,
        account_id: int,
        image_id: int,
        model_name: str,
        *,
        priority: Priority = Priority.NORMAL,
        language: Language | None = None,
        keep: Keep[Task] | None = None,
    ) -> Task:
        """Make a task of a model that is known to exist, which describes the photo in `language`.

        The answer is kept as `keep` says.

        One of low priority is due when it has waited long enough for a batch, or at once where there are none.

        Raises:
            DuplicateRowError: another request with the same key has made one.
            ImageNotFound: the account has no such image.
            TooManyTasks: MAX_UNFINISHED of the account's tasks are waiting or running.
        """
        task_id = secrets.token_hex(16)
        rank = Rank.LOW if priority is Priority.LOW else Rank.SINGLE
        patience = self._patience_seconds(model_name) if rank is Rank.LOW else 0

        async def insert_task(connection: AsyncConnection) -> Task:
            if known := await select_tasks(connection, InferenceTask.id == task_id):
                # Committed by an attempt whose answer was lost.
                return known[0]
            # The lock: two tasks of one account must not both find the last free place.
            await connection.execute(select(User.id).where(User.id == account_id).with_for_update())
            image = select(LibraryImage.id).where(LibraryImage.id == image_id, LibraryImage.user_id == account_id)
            if await connection.scalar(image) is None:
                raise ImageNotFound
            unfinished = select(InferenceTask.id).where(
                InferenceTask.user_id == account_id,
                InferenceTask.job_id.is_(None),
                InferenceTask.status.in_([status.value for status in UNFINISHED]),
            )
            count = select(func.count()).select_from(unfinished.limit(MAX_UNFINISHED).subquery())
            if (await connection.scalar(count) or 0) >= MAX_UNFINISHED:
                raise TooManyTasks(retry_after_seconds=TOO_MANY_RETRY_AFTER_SECONDS)
            now = utc_now()
            await connection.execute(
                insert(InferenceTask).values(
                    id=task_id,
                    user_id=account_id,
                    image_id=image_id,
                    model_name=model_name,
                    status=TaskStatus.PENDING.value,
                    due_at=database_time(connection.dialect.name, patience),
                    created_at=now,
                    updated_at=now,
                    priority=rank,
                    language=language,
                )
            )
            (task,) = await select_tasks(connection, InferenceTask.id == task_id)
            await record_changes(connection, [task])
            if keep is not None:
                await insert_answer(connection, keep(task))
            return task

        try:
            task = await write(self._engine, insert_task)
        except IntegrityError:
            # The image, or its owner, went at this very moment.
            raise ImageNotFound from None
        # The task is a trace of its own; this is the way to it from the request's.
        tracing.describe(task_id=task_id)
        self.wake()
        self._on_change()
        return task

    async def get(self, account_id: int, task_id: str) -> Task:
        """Return one task of an account.

        Raises:
            TaskNotFound: the account has no such task.
        """
        return await read(self._engine, lambda connection: _find(connection, account_id, task_id))

    async def page(self, account_id: int, *, skip: int, limit: int, status: TaskStatus | None) -> TaskPage:
        """Return some of an account's tasks, newest first."""
        conditions = [InferenceTask.user_id == account_id]
        if status is not None:
            conditions.append(InferenceTask.status == status.value)

        async def select_page(connection: AsyncConnection) -> TaskPage:
            total = await connection.scalar(select(func.count()).select_from(InferenceTask).where(*conditions))
            query = task_query().where(*conditions)
            query = query.order_by(InferenceTask.created_at.desc(), InferenceTask.id.desc()).offset(skip).limit(limit)
            return TaskPage([task_of(row) for row in await connection.execute(query)], total or 0)

        return await read(self._engine, select_page)

    async def show_unfinished(self) -> None:
        """Put into the metrics which tasks and batches wait and run; NaN where the database is too slow to tell."""
        query = (
            select(InferenceTask.status, func.count())
            .where(InferenceTask.status.in_([status.value for status in UNFINISHED]))
            .group_by(InferenceTask.status)
        )

        has_not_ended = ModelBatch.status.in_(["collecting", "submitting", "running"])
        batches = select(func.count(), func.min(ModelBatch.created_at)).where(has_not_ended)

        async def count(connection: AsyncConnection) -> tuple[dict[str, int], int, datetime | None]:
            number, oldest = (await connection.execute(batches)).one()
            return {row[0]: row[1] for row in await connection.execute(query)}, number, oldest

        absent = 0.0
        counted: dict[str, int] = {}
        in_batches, oldest = 0, None
        try:
            async with asyncio.timeout(GAUGE_TIMEOUT_SECONDS):
                counted, in_batches, oldest = await read(self._engine, count, max_attempts=1)
        except (AppError, SQLAlchemyError, OSError):
            absent = math.nan
        for status in UNFINISHED:
            metrics.TASKS_UNFINISHED.labels(status.value).set(counted.get(status.value, absent))
        metrics.BATCHES_UNFINISHED.set(in_batches or absent)
        age = 0.0 if oldest is None else (utc_now() - oldest).total_seconds()
        metrics.BATCH_OLDEST_SECONDS.set(max(0.0, age) or absent)

    async def cancel(self, account_id: int, task_id: str) -> Task:
        """Cancel a task that has not begun, or that waits for its next attempt.

        Raises:
            TaskNotFound: the account has no such task.
            TaskNotPending: it runs or has ended.
        """
        mark = secrets.token_hex(16)

        async def cancel_task(connection: AsyncConnection) -> Task:
            task = await _find(connection, account_id, task_id)
            cancelled = await connection.execute(
                update(InferenceTask)
                .where(InferenceTask.id == task.id, InferenceTask.status == TaskStatus.PENDING.value)
                .values(status=TaskStatus.CANCELLED.value, claim=mark, updated_at=utc_now())
            )
            task = await _find(connection, account_id, task_id)
            if cancelled.rowcount:
                await record_changes(connection, [task])
            elif task.claim != mark:
                raise TaskNotPending
            return task

        task = await write(self._engine, cancel_task)
        self._on_change()
        return task


async def _find(connection: AsyncConnection, account_id: int, task_id: str) -> Task:
    if _ID.fullmatch(task_id):
        for task in await select_tasks(connection, InferenceTask.id == task_id, InferenceTask.user_id == account_id):
            return task
    raise TaskNotFound
