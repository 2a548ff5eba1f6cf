"""What a process needs to tell its clients of task events, and other processes that there are some."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.runtime.background import running
from app.services.accounts.service import AccountService
from app.services.events.feed import TaskEvents
from app.services.events.redis_signal import RedisSignal
from app.services.events.rlimits import raise_open_files_limit
from app.services.redis import RedisClient


@asynccontextmanager
async def open_signal(redis: RedisClient | None) -> AsyncIterator[RedisSignal | None]:
    """Yield the wake-up among processes, or None without Redis; what is due is sent at the end of the block."""
    if redis is None:
        yield None
        return
    signal = RedisSignal(redis)
    try:
        yield signal
    finally:
        await signal.close()


@asynccontextmanager
async def open_events(
    engine: AsyncEngine, *, accounts: AccountService, signal: RedisSignal | None
) -> AsyncIterator[TaskEvents]:
    """Read task events for the clients that listen, whose streams end with the block.

    Args:
        engine: the database.
        accounts: checks the clients' tokens.
        signal: the wake-up among processes, which runs for the length of the block; None: they poll more often.
    """
    # The other half of the files and connections is for requests.
    task_events = TaskEvents(engine, accounts, max_streams=raise_open_files_limit() // 2, signal=signal)
    async with running(task_events.run(), name="task-events"):
        try:
            yield task_events
        finally:
            task_events.end_streams()
