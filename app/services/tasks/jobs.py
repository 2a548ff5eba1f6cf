"""Jobs: the tasks of an album, asked for in parts, looked at and cancelled together.

A job is its tasks: it has no state of its own but that it was cancelled, so nothing has to be kept in step with them.
Each photo is asked about as soon as it is added; there is nothing to start.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables.accounts import User
from app.database.tables.inference import InferenceJob, InferenceTask
from app.database.tables.library import LibraryImage
from app.database.transactions import read, write
from app.errors import ImageNotFound, JobCancelled, JobNotFound, JobTooLarge, TooManyTasks
from app.language.accept import Language
from app.services.idempotency.key import Keep
from app.services.idempotency.rows import insert_answer
from app.services.tasks.record import (
    FINISHED,
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

MAX_PHOTOS = 10_000
# Of all jobs of an account: two albums. Beside them there may be MAX_UNFINISHED single tasks.
MAX_UNFINISHED_IN_JOBS = 2 * MAX_PHOTOS
TOO_MANY_RETRY_AFTER_SECONDS = 60
# Missing ids that an error names.
NAMED_IDS = 20
# Tasks that are cancelled in one transaction.
CANCELLED_AT_ONCE = 1000


class JobStatus(StrEnum):
    """`finished`: no task waits or runs; a photo that is added later makes it `running` again."""

    EMPTY = "empty"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """One job, and how many of its tasks are in which state."""

    id: str
    model_name: str
    priority: Priority
    created_at: datetime
    is_cancelled: bool
    counts: dict[TaskStatus, int]

    @property
    def photos(self) -> int:
        return sum(self.counts.values())

    @property
    def progress(self) -> float:
        """The share of its photos that are done with, however they ended: 0..1, 0 of none."""
        return sum(self.counts.get(status, 0) for status in FINISHED) / self.photos if self.photos else 0.0

    @property
    def status(self) -> JobStatus:
        if self.is_cancelled:
            return JobStatus.CANCELLED
        if not self.photos:
            return JobStatus.EMPTY
        return JobStatus.RUNNING if self.progress < 1 else JobStatus.FINISHED


class JobPage(NamedTuple):
    """Some of a job's tasks, in the order of their pictures' ids, and how many there are in all."""

    items: list[Task]
    total: int


class JobService:
    """Keeps the jobs of all accounts; arguments as with `TaskService`."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        wake: Callable[[], None],
        on_change: Callable[[], None],
        patience_seconds: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._engine = engine
        self._wake = wake
        self._on_change = on_change
        self._patience_seconds = patience_seconds

    async def create(
        self,
        account_id: int,
        image_ids: Sequence[int],
        model_name: str,
        priority: Priority,
        *,
        language: Language | None = None,
        keep: Keep[Job] | None = None,
    ) -> Job:
        """Make a job of a model that is known to exist, with its first photos, which are described in `language`.

        The answer is kept as `keep` says.

        Raises:
            DuplicateRowError: another request with the same key has made one.
            ImageNotFound, TooManyTasks: as `add`.
        """
        job_id = secrets.token_hex(16)

        async def insert_job(connection: AsyncConnection) -> Job:
            known = select(InferenceJob.id).where(InferenceJob.id == job_id)
            if await connection.scalar(known) is None:
                rank = Rank.LOW if priority is Priority.LOW else Rank.JOB
                row = {"id": job_id, "user_id": account_id, "model_name": model_name, "priority": rank}
                await connection.execute(insert(InferenceJob).values(**row, created_at=utc_now()))
                await self._add(connection, account_id, job_id, image_ids, language)
                if keep is not None:
                    await insert_answer(connection, keep(await _find(connection, account_id, job_id)))
            return await _find(connection, account_id, job_id)

        return await self._written(insert_job)

    async def add(
        self, account_id: int, job_id: str, image_ids: Sequence[int], *, language: Language | None = None
    ) -> Job:
        """Add photos to a job, which are described in `language`; those that it has already stay as they are.

        Raises:
            JobNotFound: the account has no such job.
            JobCancelled: it is cancelled.
            JobTooLarge: it would have more than MAX_PHOTOS.
            ImageNotFound: the account has not all of the pictures; none is added.
            TooManyTasks: too many tasks of the account's jobs are unfinished.
        """

        async def insert_tasks(connection: AsyncConnection) -> Job:
            await self._add(connection, account_id, job_id, image_ids, language)
            return await _find(connection, account_id, job_id)

        return await self._written(insert_tasks)

    async def get(self, account_id: int, job_id: str) -> Job:
        """Return one job of an account. Raises JobNotFound."""
        return await read(self._engine, lambda connection: _find(connection, account_id, job_id))

    async def page(self, account_id: int, job_id: str, *, skip: int, limit: int, status: TaskStatus | None) -> JobPage:
        """Return some of a job's tasks. Raises JobNotFound."""
        conditions = [InferenceTask.job_id == job_id]
        if status is not None:
            conditions.append(InferenceTask.status == status.value)

        async def select_page(connection: AsyncConnection) -> JobPage:
            await _find(connection, account_id, job_id)
            total = await connection.scalar(select(func.count()).select_from(InferenceTask).where(*conditions))
            query = task_query().where(*conditions).order_by(InferenceTask.image_id).offset(skip).limit(limit)
            return JobPage([task_of(row) for row in await connection.execute(query)], total or 0)

        return await read(self._engine, select_page)

    async def cancel(self, account_id: int, job_id: str) -> Job:
        """Cancel a job: no photo is added any more, and tasks that have not begun are cancelled. Raises JobNotFound."""

        async def cancel_some(connection: AsyncConnection) -> Job:
            await _find(connection, account_id, job_id)
            await connection.execute(update(InferenceJob).where(InferenceJob.id == job_id).values(cancelled=1))
            row = InferenceTask
            pending = row.job_id == job_id, row.status == TaskStatus.PENDING.value
            ids = (await connection.scalars(select(row.id).where(*pending).limit(CANCELLED_AT_ONCE))).all()
            if ids:
                mark = secrets.token_hex(16)
                ended = {"status": TaskStatus.CANCELLED.value, "claim": mark, "updated_at": utc_now()}
                await connection.execute(update(row).where(row.id.in_(ids), *pending).values(**ended))
                await record_changes(connection, await select_tasks(connection, row.id.in_(ids), row.claim == mark))
            return await _find(connection, account_id, job_id)

        while True:
            job = await write(self._engine, cancel_some)
            self._on_change()
            if not job.counts.get(TaskStatus.PENDING):
                return job

    async def _written(self, change: Callable[[AsyncConnection], Awaitable[Job]]) -> Job:
        try:
            job = await write(self._engine, change)
        except IntegrityError:
            # A picture, or its owner, went at this very moment.
            raise ImageNotFound from None
        self._wake()
        self._on_change()
        return job

    async def _add(
        self,
        connection: AsyncConnection,
        account_id: int,
        job_id: str,
        image_ids: Sequence[int],
        language: Language | None,
    ) -> None:
        # The lock: parts of an album that arrive at the same time must not exceed the limits together.
        await connection.execute(select(User.id).where(User.id == account_id).with_for_update())
        job = await _find(connection, account_id, job_id)
        if job.is_cancelled:
            raise JobCancelled
        row = InferenceTask
        there = await connection.scalars(select(row.image_id).where(row.job_id == job_id, row.image_id.in_(image_ids)))
        new = sorted(set(image_ids) - set(there.all()))
        if job.photos + len(new) > MAX_PHOTOS:
            raise JobTooLarge(details={"most": MAX_PHOTOS, "photos": job.photos})
        image = LibraryImage
        ours = await connection.scalars(select(image.id).where(image.user_id == account_id, image.id.in_(new)))
        if missing := sorted(set(new) - set(ours.all())):
            raise ImageNotFound(details={"missing": missing[:NAMED_IDS]})
        unfinished = select(literal(1)).where(
            row.user_id == account_id, row.job_id.is_not(None), row.status.in_([each.value for each in UNFINISHED])
        )
        count = select(func.count()).select_from(unfinished.limit(MAX_UNFINISHED_IN_JOBS).subquery())
        if (await connection.scalar(count) or 0) + len(new) > MAX_UNFINISHED_IN_JOBS:
            raise TooManyTasks(retry_after_seconds=TOO_MANY_RETRY_AFTER_SECONDS)
        if not new:
            return
        is_low = job.priority is Priority.LOW
        now = utc_now()
        ids = {image_id: secrets.token_hex(16) for image_id in new}
        due_at = database_time(connection.dialect.name, self._patience_seconds(job.model_name) if is_low else 0)
        await connection.execute(
            insert(row).values(
                user_id=account_id,
                model_name=job.model_name,
                status=TaskStatus.PENDING.value,
                due_at=due_at,
                created_at=now,
                updated_at=now,
                priority=Rank.LOW if is_low else Rank.JOB,
                job_id=job_id,
                language=language,
            ),
            [{"id": task_id, "image_id": image_id} for image_id, task_id in ids.items()],
        )
        await record_changes(connection, await select_tasks(connection, row.id.in_(ids.values())))


async def _find(connection: AsyncConnection, account_id: int, job_id: str) -> Job:
    job = InferenceJob
    found = (
        await connection.execute(
            select(job.id, job.model_name, job.priority, job.created_at, job.cancelled).where(
                job.id == job_id, job.user_id == account_id
            )
        )
    ).one_or_none()
    if found is None:
        raise JobNotFound
    task = InferenceTask
    counts = await connection.execute(
        select(task.status, func.count()).where(task.job_id == job_id).group_by(task.status)
    )
    return Job(
        id=found.id,
        model_name=found.model_name,
        priority=Rank(found.priority).priority,
        created_at=found.created_at,
        is_cancelled=bool(found.cancelled),
        counts={TaskStatus(row[0]): row[1] for row in counts},
    )
