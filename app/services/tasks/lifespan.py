"""What a process needs for tasks: to make them, and where it shall, to run them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.heartbeat import Heartbeat
from app.runtime.background import running
from app.services.events.redis_signal import RedisSignal, Topic
from app.services.tasks.claims import TaskClaims
from app.services.tasks.jobs import JobService
from app.services.tasks.retention import TaskRetention
from app.services.tasks.runner import Inference, TaskRunner
from app.services.tasks.service import TaskService


@asynccontextmanager
async def open_tasks(
    settings: Settings,
    engine: AsyncEngine,
    heartbeat: Heartbeat,
    *,
    inference: Inference,
    on_change: Callable[[], None],
    signal: RedisSignal | None,
    is_worker: bool,
    patience_seconds: Callable[[str], int] = lambda _: 0,
) -> AsyncIterator[tuple[TaskService, JobService]]:
    """Keep tasks, and run them for the length of the block if this process is to.

    Args:
        settings: of the service.
        engine: the database.
        heartbeat: that of this process.
        inference: what runs a task.
        on_change: tells those who listen that an event was committed; never fails.
        signal: wakes the runners of other processes, if there is one; without it they look each second.
        is_worker: this process serves nothing. One that serves runs tasks unless TASK_WORKERS is outside.
        patience_seconds: how long a task of low priority may wait for a batch, by the name of its model.
    """
    runner: TaskRunner | None = None
    if is_worker or settings.task.workers == "inside":
        # A process that serves leaves half of the calls to the model to requests that wait for an answer.
        concurrency = settings.model.max_concurrency if is_worker else max(1, settings.model.max_concurrency // 2)
        claims = TaskClaims(engine, heartbeat, max_attempts=settings.task.max_attempts, on_change=on_change)
        runner = TaskRunner(claims, inference, concurrency=concurrency)
        if signal is not None:
            signal.listen(Topic.NEW_TASKS, runner.wake)

    def wake() -> None:
        if runner is not None:
            runner.wake()
        if signal is not None:
            signal.send(Topic.NEW_TASKS)

    tasks = TaskService(engine, wake=wake, on_change=on_change, patience_seconds=patience_seconds)
    jobs = JobService(engine, wake=wake, on_change=on_change, patience_seconds=patience_seconds)
    if runner is None:
        yield tasks, jobs
        return
    retention = TaskRetention(engine, settings.task.keep_days)
    async with running(retention.run(), name="tasks-retention"), runner.running():
        yield tasks, jobs
