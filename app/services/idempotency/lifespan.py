"""What a process needs to answer repeats: the table of first answers, swept from time to time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.runtime.background import running
from app.services.idempotency.service import IdempotencyService


@asynccontextmanager
async def open_idempotency(engine: AsyncEngine) -> AsyncIterator[IdempotencyService]:
    """Give first answers again for the length of the block, and delete the old ones."""
    idempotency = IdempotencyService(engine)
    async with running(idempotency.run(), name="idempotency"):
        yield idempotency
