"""Accounting: what was answered is logged, and hits are counted, exactly once.

Many requests share one transaction: all that arrive while a commit runs go into the next one. There is no timer, so
a single request never waits for company. With LOG_DURABILITY=commit a request is answered after its own rows are
committed, or are in the spool because the database does not take them; with async at once.

What goes into the spool is written later, by this or another process. Whether a COMMIT that was not answered has come
about need not be known for that: the ids of the requests are unique in the log, and a batch is one transaction. So rows
that are there already were committed with all that belongs to them, and a COMMIT that a server which stood still runs
after the replay finds the ids taken, and changes nothing. Without a log (ENABLE_REQUEST_LOG=false) nothing tells: the
hits of such a batch may then be counted twice.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from loguru import logger
from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config.settings import LogDurability
from app.database.batch_writer import create_batch_writer
from app.database.pipeline import DuplicateRowError, run
from app.database.statements import Statement
from app.database.tables.request_log import RequestLog
from app.database.transactions import read
from app.errors import AppError, DatabaseUnavailable, ServerBusy
from app.observability import metrics
from app.observability.tracing import span
from app.runtime.background import cancel, fail, shared, spawn
from app.services.idempotency.key import KeptAnswer
from app.services.idempotency.rows import insert_answers
from app.services.request_log.forgotten import forgotten_among, is_forgotten
from app.services.request_log.record import RequestRecord, count_hits, insert_log
from app.services.request_log.rollups import Rollups
from app.services.spool.service import Kind, Spool

# A multi-row INSERT of this many rows stays far below MySQL's max_allowed_packet (64 MiB) and SQLite's 32766 variables.
MAX_ROWS_PER_TRANSACTION = 1000
MAX_PENDING_ROWS = 20_000
# With async rows, which no request waits for, while neither the database nor the spool takes them.
RETRY_PAUSE_SECONDS = 1.0
CLOSE_TIMEOUT_SECONDS = 20.0


_SPOOLED = TypeAdapter(Sequence[RequestRecord])


@dataclass(frozen=True, slots=True)
class _Pending:
    records: Sequence[RequestRecord]
    kept: KeptAnswer | None
    # None: no request waits, the rows are kept until they can be written.
    committed: asyncio.Future[None] | None


class RequestRecorder:
    """Writes log rows, hit counts and rollups in shared transactions.

    With `log_enabled` off only the hits are counted. `currency` is that of what hits save. What the database does not
    take goes into `spool`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        rollups: Rollups,
        spool: Spool,
        currency: str,
        log_enabled: bool = True,
        durability: LogDurability = LogDurability.COMMIT,
    ) -> None:
        self._engine = engine
        self._rollups = rollups
        self._spool = spool
        spool.on_replay(Kind.REQUESTS, self._replay)
        self._log_enabled = log_enabled
        self._waits = durability is LogDurability.COMMIT
        self._writer = create_batch_writer(engine)
        self._money_saved = metrics.MONEY_SAVED.labels(currency)
        self._saved_by_similar = metrics.MONEY_SAVED_BY_SIMILAR.labels(currency)
        self._pending: deque[_Pending] = deque()
        self._pending_rows = 0
        self._flusher: asyncio.Task[None] | None = None

    async def record(self, records: Sequence[RequestRecord], *, kept: KeptAnswer | None = None) -> None:
        """Return when all `records` are committed or in the spool, or at once with `LogDurability.ASYNC`.

        Args:
            records: of one request; without any, nothing is written.
            kept: the answer that its repeats get. It is written in the same transaction, and always waited for; not
                into the spool, since a repeat could not be compared with it: during an outage each one counts.

        Raises:
            ServerBusy: too many rows wait already; nothing is written.
            DuplicateRowError: there is an answer with the key of `kept`; nothing is written.
            AppError: the database failed, and the spool takes nothing.
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
        """Wait until everything that was handed over is written or in the spool, and give the connection back.

        Rows that no request waits for are given up, with a line in the log, when neither takes them.
        """
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                while self._flusher is not None:
                    await shared(self._flusher)
        except TimeoutError:
            if self._flusher is not None:
                await cancel(self._flusher)
            logger.error("{} log rows are lost: neither the database nor the spool took them", self._pending_rows)
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
            # Where the spool is full, the database is tried, which may be back.
            if self._spool.is_behind and await self._is_spooled(records):
                self._kept(batch, records)
                return
            await self._write(records, [pending.kept for pending in batch if pending.kept is not None])
        except asyncio.CancelledError:
            self._put_back(batch)
            raise
        except AppError as error:
            metrics.count(metrics.COMMIT_FAILURES)
            await self._keep_in_spool(batch, records, error)
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
            metrics.observe(metrics.COMMIT_ROWS, len(records))
            metrics.observe(metrics.COMMIT_SECONDS, time.perf_counter() - started_at)
            self._kept(batch, records)

    async def _keep_in_spool(self, batch: list[_Pending], records: Sequence[RequestRecord], error: AppError) -> None:
        try:
            is_spooled = await self._is_spooled(records)
        except asyncio.CancelledError:
            self._put_back(batch)
            raise
        if is_spooled:
            self._kept(batch, records)
            return
        for pending in batch:
            if pending.committed is not None:
                _fail(pending, error)
        if not_waited_for := [pending for pending in batch if pending.committed is None]:
            self._put_back(not_waited_for)
            await asyncio.sleep(RETRY_PAUSE_SECONDS)

    async def _is_spooled(self, records: Sequence[RequestRecord]) -> bool:
        """Put `records` into the spool, and return whether it has taken them."""
        if not self._log_enabled:
            # Only hits are counted, and no name shall be on a disk that the log would not have.
            records = [each._replace(user_id=None, ip_address=None) for each in records if each.hits_shared_cache]
        if not records:
            return True
        try:
            await self._spool.append(Kind.REQUESTS, _SPOOLED.dump_json(records), rows=len(records))
        except DatabaseUnavailable:
            return False
        return True

    async def _replay(self, payloads: Sequence[bytes]) -> None:
        """Write what was in the spool; what is in the log already was committed before."""
        records = [record for payload in payloads for record in _SPOOLED.validate_json(payload)]
        forgotten = await forgotten_among(self._engine, {r.user_id for r in records if r.user_id is not None})
        missing = [
            record._replace(user_id=None, ip_address=None)
            if is_forgotten(forgotten, record.user_id or "", record.created_at)
            else record
            for record in records
        ]
        while statements := self._statements(missing):
            try:
                await run(self._engine, statements, writes=True, quietly=True)
            except DuplicateRowError:
                written = await self._written(missing)
                if not written:
                    raise
                missing = [record for record in missing if record.request_id not in written]
            else:
                if self._log_enabled:
                    self._rollups.committed(missing)
                return

    def _kept(self, batch: list[_Pending], records: Sequence[RequestRecord]) -> None:
        for pending in batch:
            if pending.committed is not None and not pending.committed.done():
                pending.committed.set_result(None)
        if saved_micros := sum(record.saved_micros for record in records):
            metrics.count(self._money_saved, saved_micros / 1_000_000)
        if similar := [record.saved_micros for record in records if record.similar_to is not None]:
            metrics.count(metrics.SIMILAR_HITS, len(similar))
            metrics.count(self._saved_by_similar, sum(similar) / 1_000_000)

    async def _write(self, records: Sequence[RequestRecord], kept: Sequence[KeptAnswer]) -> None:
        statements = self._statements(records)
        if not statements:
            return
        if kept:
            # First: an answer that waits for another process' holds no lock that other requests need.
            statements = [insert_answers(self._engine.dialect.name, kept), *statements]
        try:
            await self._writer.write(statements)
        except DuplicateRowError:
            # A connection lost during COMMIT leaves the outcome open; the retry then finds the rows already there.
            if len(await self._written(records)) != len(records):
                raise
        if self._log_enabled:
            self._rollups.committed(records)

    def _statements(self, records: Sequence[RequestRecord]) -> list[Statement]:
        """Return the transaction of `records`; its first statement is a duplicate row where one is in the log."""
        statements = [insert_log(records)] if self._log_enabled and records else []
        hits = Counter(record.similar_to or record.image_hash for record in records if record.hits_shared_cache)
        statements += count_hits(self._engine.dialect.name, hits)
        return [*statements, *self._rollups.statements(records, logged=self._log_enabled)] if statements else []

    async def _written(self, records: Sequence[RequestRecord]) -> set[str]:
        """Return which of `records` are in the log, by their ids."""
        query = select(RequestLog.request_id).where(RequestLog.request_id.in_([each.request_id for each in records]))

        async def select_ids(connection: AsyncConnection) -> set[str]:
            return set(await connection.scalars(query))

        return await read(self._engine, select_ids)


def _fail(pending: _Pending, error: Exception) -> None:
    if pending.committed is None:
        logger.error("{} log rows cannot be written: {}", len(pending.records), type(error).__name__)
    else:
        fail(pending.committed, error)
