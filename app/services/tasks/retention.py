"""Old tasks and old events go. The results of tasks stay: they belong to their pictures."""

from datetime import timedelta

from loguru import logger
from sqlalchemy import delete, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.retention import delete_in_batches, delete_regularly
from app.database.tables.inference import InferenceJob, InferenceTask, TaskEvent
from app.services.tasks.record import FINISHED, database_time

# For who was away and asks what happened meanwhile.
EVENTS_KEPT = timedelta(days=1)
INTERVAL_SECONDS = 3600


class TaskRetention:
    """Deletes tasks that ended more than `keep_days` ago, and events of more than a day ago."""

    def __init__(self, engine: AsyncEngine, keep_days: int) -> None:
        self._engine = engine
        self._kept = timedelta(days=keep_days)

    async def run(self) -> None:
        """Delete every hour until the task is cancelled."""
        await delete_regularly(self._delete_and_log, seconds=INTERVAL_SECONDS, what="old tasks")

    async def _delete_and_log(self) -> None:
        tasks, events = await self.delete_old()
        logger.info("{} old tasks and {} old task events were deleted", tasks, events)

    async def delete_old(self) -> tuple[int, int]:
        """Delete once; return how many tasks and how many events."""
        tasks = await delete_in_batches(self._engine, self._delete_tasks)
        await delete_in_batches(self._engine, self._delete_jobs)
        events = await delete_in_batches(self._engine, self._delete_events)
        return tasks, events

    async def _delete_tasks(self, connection: AsyncConnection, rows: int) -> int:
        row = InferenceTask
        is_finished = row.status.in_([status.value for status in FINISHED])
        old = select(row.id).where(row.updated_at < utc_now() - self._kept, is_finished).limit(rows)
        if ids := (await connection.scalars(old)).all():
            await connection.execute(delete(row).where(row.id.in_(ids)))
        return len(ids)

    async def _delete_jobs(self, connection: AsyncConnection, rows: int) -> int:
        row = InferenceJob
        has_tasks = exists().where(InferenceTask.job_id == row.id)
        empty = select(row.id).where(row.created_at < utc_now() - self._kept, ~has_tasks).limit(rows)
        if ids := (await connection.scalars(empty)).all():
            await connection.execute(delete(row).where(row.id.in_(ids)))
        return len(ids)

    async def _delete_events(self, connection: AsyncConnection, rows: int) -> int:
        cutoff = database_time(connection.dialect.name, -int(EVENTS_KEPT.total_seconds()))
        old = select(TaskEvent.id).where(TaskEvent.created_at < cutoff).limit(rows)
        if ids := (await connection.scalars(old)).all():
            await connection.execute(delete(TaskEvent).where(TaskEvent.id.in_(ids)))
        return len(ids)
