"""Old tasks and old events go. The results of tasks stay: they belong to their pictures."""

import asyncio
import random
from datetime import timedelta

from loguru import logger
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables.inference import InferenceTask, TaskEvent
from app.database.transactions import write
from app.runtime.background import OutageLog, every
from app.services.tasks.record import FINISHED, database_time

# For who was away and asks what happened meanwhile.
EVENTS_KEPT = timedelta(days=1)
# Small enough that a batch holds its locks for milliseconds.
DELETE_BATCH_ROWS = 1000
DELETE_PAUSE_SECONDS = 0.05
INTERVAL_SECONDS = 3600
# Processes that start together do not delete together.
FIRST_RUN_MAX_SECONDS = 300


class TaskRetention:
    """Deletes tasks that ended more than `keep_days` ago, and events of more than a day ago."""

    def __init__(self, engine: AsyncEngine, keep_days: int) -> None:
        self._engine = engine
        self._kept = timedelta(days=keep_days)

    async def run(self) -> None:
        """Delete every hour until the task is cancelled."""
        outage = OutageLog("old tasks cannot be deleted", recovered="old tasks are deleted again")
        first = random.uniform(0, FIRST_RUN_MAX_SECONDS)
        await every(INTERVAL_SECONDS, self._delete_and_log, outage=outage, first_after_seconds=first)

    async def _delete_and_log(self) -> None:
        tasks, events = await self.delete_old()
        logger.info("{} old tasks and {} old task events were deleted", tasks, events)

    async def delete_old(self) -> tuple[int, int]:
        """Delete once; return how many tasks and how many events."""
        tasks = events = 0
        while batch := await write(self._engine, self._delete_tasks):
            tasks += batch
            await asyncio.sleep(DELETE_PAUSE_SECONDS)
        while batch := await write(self._engine, self._delete_events):
            events += batch
            await asyncio.sleep(DELETE_PAUSE_SECONDS)
        return tasks, events

    async def _delete_tasks(self, connection: AsyncConnection) -> int:
        row = InferenceTask
        is_finished = row.status.in_([status.value for status in FINISHED])
        old = select(row.id).where(row.updated_at < utc_now() - self._kept, is_finished).limit(DELETE_BATCH_ROWS)
        if ids := (await connection.scalars(old)).all():
            await connection.execute(delete(row).where(row.id.in_(ids)))
        return len(ids)

    async def _delete_events(self, connection: AsyncConnection) -> int:
        cutoff = database_time(connection.dialect.name, -int(EVENTS_KEPT.total_seconds()))
        old = select(TaskEvent.id).where(TaskEvent.created_at < cutoff).limit(DELETE_BATCH_ROWS)
        if ids := (await connection.scalars(old)).all():
            await connection.execute(delete(TaskEvent).where(TaskEvent.id.in_(ids)))
        return len(ids)
