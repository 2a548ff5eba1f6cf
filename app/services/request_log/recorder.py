"""Accounting: what was answered is logged, and hits are counted, exactly once.

Many requests share one transaction: all that arrive while a commit runs go into the next one. There is no timer, so
a single request never waits for company. With LOG_DURABILITY=commit a request is answered after its own rows are
committed; with async at once, and its rows stay in memory until the database has them.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from loguru import logger
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config.settings import LogDurability
from app.database.batch_writer import create_batch_writer
from app.database.pipeline import DuplicateRowError
from app.database.statements import Statement
from app.database.tables.request_log import RequestLog
from app.database.transactions import read
from app.errors import AppError, ServerBusy
from app.observability import metrics
from app.observability.tracing import span
from app.runtime.background import cancel, fail, shared, spawn
from app.services.idempotency.key import KeptAnswer
from app.services.idempotency.rows import insert_answers
from app.services.request_log.record import RequestRecord, count_hits, insert_log
from app.services.request_log.rollups import Rollups

# A multi-row INSERT of this many rows stays far below MySQL's max_allowed_packet (64 MiB) and SQLite's 32766 variables.
MAX_ROWS_PER_TRANSACTION = 1000
MAX_PENDING_ROWS = 20_000
# With async rows, which no request waits for, while the database is away.
RETRY_PAUSE_SECONDS = 1.0
CLOSE_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class _Pending:
    records: Sequence[RequestRecord]
    kept: KeptAnswer | None
    # None: no request waits, the rows are kept until they can be written.
    committed: asyncio.Future[None] | None


class RequestRecorder:
    """Writes log rows, hit counts and rollups in shared transactions.

    With `log_enabled` off only the hits are counted. `currency` is that of what hits save.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        rollups: Rollups,
        currency: str,
        log_enabled: bool = True,
        durability: LogDurability = LogDurability.COMMIT,
    ) -> None:
        self._engine = engine
        self._rollups = rollups
        self._log_enabled = log_enabled
        self._waits = durability is LogDurability.COMMIT
        self._writer = create_batch_writer(engine)
        self._money_saved = metrics.MONEY_SAVED.labels(currency)
        self._pending: deque[_Pending] = deque()
        self._pending_rows = 0
        self._flusher: asyncio.Task[None] | None = None

    async def record(self, records: Sequence[RequestRecord], *, kept: KeptAnswer | None = None) -> None:
        """Return when all `records` are committed, or at once with `LogDurability.ASYNC`.

        Args:
            records: of one request; without any, nothing is written.
            kept: the answer that its repeats get. It is written in the same transaction, and always waited for.

        Raises:
            ServerBusy: too many rows wait already; nothing is written.
            DuplicateRowError: there is an answer with the key of `kept`; nothing is written.
            AppError: the database failed; nothing is written.
        """
        if not records:
            return
        if self._pending_rows + len(records) > MAX_PENDING_ROWS:
            raise ServerBusy(retry_after_seconds=1.0)
        waits = self._waits or kept is not None
        committed = asyncio.get_running_loop().create_future() if waits else None
        self._pending.append(_Pending(records, kept, committed))
        self._pending_rows += len(records)
        if self._flusher is None:
            self._flusher = spawn(self._flush(), name="request-recorder")
        if committed is not None:
            # A caller that goes away cancels its own future only: the rows are written all the same.
            with span("commit", rows=len(records)):
                await committed

    @property
    def pending_rows(self) -> int:
        """Rows that wait for a transaction to take them."""
        return self._pending_rows

    async def close(self) -> None:
        """Wait until everything that was handed over is written, and give the connection back.

        Rows that no request waits for are given up, with a line in the log, when the database stays away.
        """
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                while self._flusher is not None:
                    await shared(self._flusher)
        except TimeoutError:
            if self._flusher is not None:
                await cancel(self._flusher)
            logger.error("{} log rows are lost: the database could not be reached", self._pending_rows)
        await self._writer.close()

    async def _flush(self) -> None:
        try:
            while self._pending:
                await self._write_batch(self._take_batch())
        finally:
            self._flusher = None

    def _take_batch(self) -> list[_Pending]:
        batch: list[_Pending] = []
        rows = 0
        while self._pending and (not batch or rows + len(self._pending[0].records) <= MAX_ROWS_PER_TRANSACTION):
            pending = self._pending.popleft()
            batch.append(pending)
            rows += len(pending.records)
        self._pending_rows -= rows
        return batch

    def _put_back(self, batch: list[_Pending]) -> None:
        self._pending.extendleft(reversed(batch))
        self._pending_rows += sum(len(pending.records) for pending in batch)

    async def _write_batch(self, batch: list[_Pending]) -> None:
        records = [record for pending in batch for record in pending.records]
        started_at = time.perf_counter()
        try:
            await self._write(records, [pending.kept for pending in batch if pending.kept is not None])
        except asyncio.CancelledError:
            self._put_back(batch)
            raise
        except AppError as error:
            metrics.count(metrics.COMMIT_FAILURES)
            for pending in batch:
                if pending.committed is not None:
                    _fail(pending, error)
            if not_waited_for := [pending for pending in batch if pending.committed is None]:
                self._put_back(not_waited_for)
                await asyncio.sleep(RETRY_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - handed to the requests, which report it
            metrics.count(metrics.COMMIT_FAILURES)
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            # One request's rows shall not fail the others'; by halves, since a client can repeat a request at will.
            middle = len(batch) // 2
            try:
                await self._write_batch(batch[:middle])
            except asyncio.CancelledError:
                self._put_back(batch[middle:])
                raise
            await self._write_batch(batch[middle:])
        else:
            self._count(records, time.perf_counter() - started_at)
            for pending in batch:
                if pending.committed is not None and not pending.committed.done():
                    pending.committed.set_result(None)

    def _count(self, records: Sequence[RequestRecord], seconds: float) -> None:
        metrics.observe(metrics.COMMIT_ROWS, len(records))
        metrics.observe(metrics.COMMIT_SECONDS, seconds)
        if saved_micros := sum(record.saved_micros for record in records):
            metrics.count(self._money_saved, saved_micros / 1_000_000)

    async def _write(self, records: Sequence[RequestRecord], kept: Sequence[KeptAnswer]) -> None:
        # The answers first: one that waits for another process' holds no lock that other requests need.
        statements: list[Statement] = [insert_answers(self._engine.dialect.name, kept)] if kept else []
        if self._log_enabled:
            statements.append(insert_log(records))
        hits = Counter(record.image_hash for record in records if record.hits_shared_cache)
        statements += count_hits(self._engine.dialect.name, hits)
        if not statements:
            return
        statements += self._rollups.statements(records, logged=self._log_enabled)
        try:
            await self._writer.write(statements)
        except DuplicateRowError:
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


def _fail(pending: _Pending, error: Exception) -> None:
    if pending.committed is None:
        logger.error("{} log rows cannot be written: {}", len(pending.records), type(error).__name__)
    else:
        fail(pending.committed, error)
