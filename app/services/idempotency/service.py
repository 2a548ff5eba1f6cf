"""A request with an Idempotency-Key is answered once: its repeats get the first answer, byte for byte.

The first answer is a row that belongs to the transaction which makes the answer count, so neither is ever there without
the other, and the row's key decides between two requests that run at the same time: the later one is undone, and gets
the answer of the other. Nothing marks a request as begun, so a process that dies leaves nothing behind that would stop
the repeat. Errors are not kept.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.pipeline import DuplicateRowError, run
from app.database.retention import delete_in_batches, delete_regularly
from app.database.transactions import write
from app.errors import DatabaseUnavailable, IdempotencyKeyInUse, IdempotencyKeyReused, ServerBusy
from app.runtime.keyed_lock import KeyedLock
from app.services.idempotency.key import IdempotencyKey
from app.services.idempotency.rows import delete_answer, delete_old, found_in, select_answer

# A repeat waits so long for the first request, if this process is at it. A model call seldom takes longer.
WAIT_SECONDS = 60.0
RETRY_AFTER_SECONDS = 1.0
# An answer that has the key may count no longer: then it is deleted, and the request is answered anew.
MAX_ATTEMPTS = 3
INTERVAL_SECONDS = 300.0


class FirstAnswer(NamedTuple):
    """The body of an answer; `is_replay`: an earlier request has had it."""

    body: str
    is_replay: bool


class IdempotencyService:
    """Gives first answers again, for 24 hours."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._locks = KeyedLock()

    async def answer_once(
        self, key: IdempotencyKey, answer: Callable[[], Awaitable[str]], *, looks_first: bool = True
    ) -> FirstAnswer:
        """Return the first answer to the request with this key, which is that of `answer` where there is none yet.

        Args:
            key: of the request.
            answer: answers the request; the transaction that makes the answer count inserts `key.keep(body)`.
            looks_first: look for an answer before the request is answered anew. Where that is cheap, the key that is
                taken tells as well, and nearly all requests are no repeats.

        Raises:
            IdempotencyKeyReused: another request had the same key.
            IdempotencyKeyInUse: the first request takes long.
            ServerBusy: it cannot be told whether there is an answer.
            Exception: what `answer` raises.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._locks.held(key.key_hash, timeout_seconds=WAIT_SECONDS))
            except TimeoutError:
                raise IdempotencyKeyInUse(retry_after_seconds=RETRY_AFTER_SECONDS) from None
            for _ in range(MAX_ATTEMPTS):
                # While the database is away, what memory knows is answered all the same (app/services/spool).
                with suppress(DatabaseUnavailable):
                    if looks_first and (first := await self._find(key)) is not None:
                        return first
                try:
                    return FirstAnswer(await answer(), is_replay=False)
                except DuplicateRowError:
                    # Another request was faster; or this one, if a connection was lost during COMMIT.
                    looks_first = True
            # Each time, what had the key was gone again.
            raise ServerBusy(retry_after_seconds=RETRY_AFTER_SECONDS)

    async def _find(self, key: IdempotencyKey) -> FirstAnswer | None:
        (rows,) = await run(self._engine, [select_answer(self._engine.dialect.name, key)], writes=False)
        found = found_in(rows)
        if found is None:
            return None
        if not found.is_expired and found.fingerprint != key.fingerprint:
            raise IdempotencyKeyReused
        if found.is_expired or found.is_changed:

            async def remove(connection: AsyncConnection) -> None:
                await delete_answer(connection, key.key_hash, found.request_id)

            await write(self._engine, remove)
            return None
        return FirstAnswer(found.body, is_replay=found.request_id != key.request_id)

    async def run(self) -> None:
        """Delete old answers every few minutes until the task is cancelled."""
        await delete_regularly(self._sweep, seconds=INTERVAL_SECONDS, what="old first answers")

    async def delete_old(self) -> int:
        """Delete once; return how many."""
        return await delete_in_batches(self._engine, delete_old)

    async def _sweep(self) -> None:
        if deleted := await self.delete_old():
            logger.debug("{} old first answers were deleted", deleted)
