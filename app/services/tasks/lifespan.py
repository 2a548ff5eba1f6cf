"""What a process needs for tasks: to make them, and where it shall, to run them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.services.tasks.claims import TaskClaims
from app.services.tasks.queue import create_queue
from app.services.tasks.retention import TaskRetention
from app.services.tasks.runner import Inference, TaskRunner
from app.services.tasks.service import TaskService


@asynccontextmanager
async def open_tasks(
    settings: Settings,
    engine: AsyncEngine,
    *,
    key_space: str,
    inference: Inference,
    on_change: Callable[[], None],
    is_worker: bool,
) -> AsyncIterator[TaskService]:
    """Keep tasks, and run them for the length of the block if this process is to.

    Args:
        settings: of the service.
        engine: the database.
        key_space: what tells this installation's keys in Redis from those of others.
        inference: what runs a task.
        on_change: tells those who listen that an event was committed; never fails.
        is_worker: this process serves nothing. One that serves runs tasks unless TASK_WORKERS is outside.
    """
    runs_tasks = is_worker or settings.task.workers == "inside"
    queue = create_queue(settings, key_space=key_space, runs_tasks=runs_tasks)
    try:
        tasks = TaskService(engine, announce=queue.announce, on_change=on_change)
        if not runs_tasks:
            yield tasks
            return
        # Who serves leaves half of the calls to the model to those who wait for an answer.
        concurrency = settings.model.max_concurrency if is_worker else max(1, settings.model.max_concurrency // 2)
        runs = TaskClaims(engine, max_attempts=settings.task.max_attempts, on_change=on_change)
        runner = TaskRunner(runs, inference, concurrency=concurrency)
        expiry = asyncio.create_task(TaskRetention(engine, settings.task.keep_days).run(), name="tasks-expiry")
        try:
            runner.start()
            await queue.listen(runner.run, concurrency=concurrency)
            yield tasks
        finally:
            expiry.cancel()
            await asyncio.gather(expiry, return_exceptions=True)
            await runner.close()
    finally:
        await queue.close()
