"""How old rows go, of every table that has a time: in small batches, so that requests write in between."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.transactions import write
from app.runtime.background import OutageLog, every

# Small enough that a batch holds its locks for milliseconds.
DELETE_BATCH_ROWS = 1000
DELETE_PAUSE_SECONDS = 0.05
# No request waits for it, and a busy disk may take longer than one would.
BATCH_TIMEOUT_SECONDS = 30.0
# Processes that start together do not delete together.
FIRST_RUN_MAX_SECONDS = 300.0


async def delete_in_batches(engine: AsyncEngine, delete_batch: Callable[[AsyncConnection, int], Awaitable[int]]) -> int:
    """Call `delete_batch` in a transaction of its own again and again until it finds nothing; return how many rows.

    Args:
        engine: the database.
        delete_batch: deletes at most so many rows, and returns how many.

    Raises:
        DatabaseUnavailable, ServerBusy: what was deleted by then stays so.
    """
    deleted = 0
    while rows := await write(
        engine, lambda connection: delete_batch(connection, DELETE_BATCH_ROWS), timeout_seconds=BATCH_TIMEOUT_SECONDS
    ):
        deleted += rows
        await asyncio.sleep(DELETE_PAUSE_SECONDS)
    return deleted


async def delete_regularly(delete_old: Callable[[], Awaitable[object]], *, seconds: float, what: str) -> None:
    """Call `delete_old` every so many seconds until the task is cancelled; `what` is the plural for the log."""
    outage = OutageLog(f"{what} cannot be deleted", recovered=f"{what} are deleted again")
    first = random.uniform(0, FIRST_RUN_MAX_SECONDS)
    await every(seconds, delete_old, outage=outage, first_after_seconds=first)
