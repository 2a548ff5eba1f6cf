"""Durable accounting: a request is answered only after its log row and its hit are committed.

Many requests share one transaction: all that arrive while a commit runs go into the next one. There is no timer, so
a single request never waits for company.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Table, case, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.statements import execute
from app.database.tables import CachedImage, RequestLog
from app.database.transactions import read, write
from app.errors import AppError, ServerBusy
from app.services.request_record import RequestRecord
from app.services.rollups import Rollups

# A multi-row INSERT of this many rows stays far below MySQL's max_allowed_packet (64 MiB) and SQLite's 32766 variables.
MAX_ROWS_PER_TRANSACTION = 1000
MAX_PENDING_ROWS = 20_000

# On the table, not on the mapped class: nothing of the ORM is needed for it, and it is the busiest statement of all.
_INSERT_LOG = insert(cast("Table", RequestLog.__table__))


@dataclass(frozen=True, slots=True)
class _Pending:
    records: Sequence[RequestRecord]
    committed: asyncio.Future[None]


class RequestRecorder:
    """Writes log rows, hit counts and rollups in shared transactions.

    With `log_enabled` off only the hits are counted.
    """

    def __init__(self, engine: AsyncEngine, *, log_enabled: bool, rollups: Rollups) -> None:
        self._engine = engine
        self._rollups = rollups
        self._log_enabled = log_enabled
        self._pending: list[_Pending] = []
        self._pending_rows = 0
        self._flusher: asyncio.Task[None] | None = None

    async def record(self, records: Sequence[RequestRecord]) -> None:
        """Return when all `records` are committed.

        Raises:
            ServerBusy: too many rows wait already; nothing is written.
            AppError: the database failed; nothing is written.
        """
        if not records:
            return
        if self._pending_rows + len(records) > MAX_PENDING_ROWS:
            raise ServerBusy(retry_after_seconds=1.0)
        committed = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(records, committed))
        self._pending_rows += len(records)
        if self._flusher is None:
            # In a context of its own: its log lines are not those of the request that happens to start it.
            self._flusher = asyncio.create_task(self._flush(), name="request-recorder", context=Context())
        # A caller that goes away does not take the rows of its batch along.
        await asyncio.shield(committed)

    async def close(self) -> None:
        """Wait until everything that was handed over is written."""
        while self._flusher is not None:
            await asyncio.shield(self._flusher)

    async def _flush(self) -> None:
        try:
            while self._pending:
                await self._write_batch(self._take_batch())
        finally:
            self._flusher = None

    def _take_batch(self) -> list[_Pending]:
        rows = 0
        for end, pending in enumerate(self._pending):
            if end and rows + len(pending.records) > MAX_ROWS_PER_TRANSACTION:
                break
            rows += len(pending.records)
        else:
            end = len(self._pending)
        batch, self._pending = self._pending[:end], self._pending[end:]
        self._pending_rows -= rows
        return batch

    async def _write_batch(self, batch: list[_Pending]) -> None:
        try:
            await self._write([record for pending in batch for record in pending.records])
        except AppError as error:
            for pending in batch:
                _fail(pending, error)
        except Exception as error:  # noqa: BLE001 - handed to the requests, which report it
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            # One request's rows shall not fail the others'.
            for pending in batch:
                await self._write_batch([pending])
        else:
            for pending in batch:
                if not pending.committed.done():
                    pending.committed.set_result(None)

    async def _write(self, records: Sequence[RequestRecord]) -> None:
        hits = Counter(record.image_hash for record in records if record.from_cache)
        if not self._log_enabled and not hits:
            return

        statements = self._rollups.statements(records, logged=self._log_enabled)

        async def insert_and_count(connection: AsyncConnection) -> None:
            if self._log_enabled:
                await connection.execute(_INSERT_LOG, [_row(record) for record in records])
            if hits:
                await _count_hits(connection, hits)
            for statement in statements:
                await execute(connection, statement)

        try:
            await write(self._engine, insert_and_count)
        except IntegrityError:
            # A connection lost during COMMIT leaves the outcome open; the retry then finds the rows already there.
            if not await self._is_written(records):
                raise
        if self._log_enabled:
            self._rollups.committed(records)

    async def _is_written(self, records: Sequence[RequestRecord]) -> bool:
        ids = [record.request_id for record in records]

        async def count_rows(connection: AsyncConnection) -> int:
            query = select(func.count()).select_from(RequestLog).where(RequestLog.request_id.in_(ids))
            return await connection.scalar(query) or 0

        return await read(self._engine, count_rows) == len(ids)


async def _count_hits(connection: AsyncConnection, hits: Counter[str]) -> None:
    # Sorted, so that two processes lock the rows in the same order.
    counted = dict(sorted(hits.items()))
    await connection.execute(
        update(CachedImage)
        .where(CachedImage.image_hash.in_(list(counted)))
        .values(
            hit_count=CachedImage.hit_count + case(counted, value=CachedImage.image_hash, else_=0),
            last_hit_at=utc_now(),
        )
    )


def _row(record: RequestRecord) -> dict[str, object]:
    return {
        "request_id": record.request_id,
        "user_id": record.user_id,
        "ip_address": record.ip_address,
        "image_hash": record.image_hash,
        "image_size": record.image_size,
        "category": record.category,
        "confidence": record.confidence,
        "from_cache": int(record.from_cache),
        "processing_time_ms": record.processing_time_ms,
        "created_at": record.created_at,
    }


def _fail(pending: _Pending, error: Exception) -> None:
    if not pending.committed.done():
        pending.committed.set_exception(error)
        # Marks it as seen, for the case that the caller has gone.
        pending.committed.exception()
