"""One process' stream of task events, and what tests ask of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.accounts.service import AccountService
from app.services.events.feed import TaskEvents
from app.services.events.listener import Listener
from app.services.events.redis_signal import RedisSignal
from app.services.redis import RedisClient

DEADLINE_SECONDS = 120.0
NEVER = 3600.0


@asynccontextmanager
async def process(
    engine: AsyncEngine,
    accounts: AccountService,
    redis_url: str | None = None,
    *,
    redis_timeout_seconds: float = 30.0,
    max_streams: int = 1000,
) -> AsyncIterator[TaskEvents]:
    """One process' stream."""
    client = (
        None if redis_url is None else RedisClient(redis_url, key_space="test", timeout_seconds=redis_timeout_seconds)
    )
    signal = None if client is None else RedisSignal(client)
    stream = TaskEvents(engine, accounts, max_streams=max_streams, signal=signal)
    task = asyncio.create_task(stream.run())
    try:
        yield stream
    finally:
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if signal is not None:
            await signal.close()
        if client is not None:
            await client.close()


async def ids(listener: Listener, count: int) -> list[int]:
    """The ids of the next events."""
    seen: list[int] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for change in listener.events():
            seen.append(change.id)
            if len(seen) == count:
                break
    return seen


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - the condition notifies no task
            await asyncio.sleep(0.005)


async def in_contact(stream: TaskEvents) -> None:
    """Wait until the stream has Redis."""
    signal = stream._signal
    assert signal is not None
    await until(lambda: signal.in_contact)
