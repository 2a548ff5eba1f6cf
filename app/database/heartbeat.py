"""One heartbeat per process: a row that it renews each second while it works on something that others wait for.

A process without a row that was renewed in the last three seconds is stalled, and others may take over its work: it
ended, or it stands still, or it cannot reach the database. An idle process writes nothing.
"""

import math
import secrets
import time
from asyncio import Task
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import ColumnElement, exists, literal_column
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from app.database.pipeline import Rows, run
from app.database.statements import Statement, seconds_from_now, upsert
from app.database.tables.heartbeat import ProcessHeartbeat
from app.runtime.background import OutageLog, cancel, every, spawn

RENEW_SECONDS = 1.0
STALLED_SECONDS = 3
# Of two beats further apart, the outage between them may have made every row old.
MAX_GAP_SECONDS = STALLED_SECONDS - RENEW_SECONDS
# A connection that says nothing, as after a failover, is replaced before others may judge: in 0.7 of this time.
BEAT_TIMEOUT_SECONDS = 2.8
# Rows of processes that ended without deleting theirs.
ROWS_KEPT_SECONDS = 3600


class Heartbeat:
    """The heartbeat of this process, and the judgement of that of others.

    `process_id` is the random name of this process (32 hex digits). `renewal` is one beat: the first statement of a
    transaction that makes this process the owner of something. `hold` must last as long as the process owns it.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.process_id = secrets.token_hex(16)
        self._engine = engine
        self._holds = 0
        self._loop: Task[None] | None = None
        self._outage = OutageLog(
            "the heartbeat of this process fails: others may take over its work",
            recovered="the heartbeat of this process goes on",
        )
        # time.monotonic() of the last beat, and of the first that no gap separates from it.
        self._last_beat = -math.inf
        self._unbroken_since = -math.inf
        self._next_cleaning = -math.inf

        dialect = engine.dialect.name
        self.renewal = Statement(
            upsert(
                dialect,
                table="process_heartbeat",
                keys=["process_id"],
                updates={"beat_at": "{new}"},
                columns="process_id, beat_at",
                source=f"VALUES (%s, {seconds_from_now(dialect, 0)})",
            ),
            (self.process_id,),
        )
        self._deletion = Statement("DELETE FROM process_heartbeat WHERE process_id = %s", (self.process_id,))
        self._cleaning = Statement(
            f"DELETE FROM process_heartbeat WHERE beat_at < {seconds_from_now(dialect, -ROWS_KEPT_SECONDS)}"  # noqa: S608 - constants
        )
        self._oldest_fresh: ColumnElement[datetime] = literal_column(seconds_from_now(dialect, -STALLED_SECONDS))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Beat for the length of the block: while this process owns something, or waits for what another owns."""
        if self._loop is None:
            self._loop = spawn(every(RENEW_SECONDS, self._beat, outage=self._outage), name="heartbeat")
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    async def write(self, statements: Sequence[Statement]) -> list[Rows]:
        """Run `statements` as `pipeline.run` does, with a beat in the same transaction if one is due.

        What they make this process the owner of is therefore never seen without a beat.
        """
        if time.monotonic() - self._last_beat < RENEW_SECONDS:
            # Not with each: transactions that renew the same row wait for each other.
            return await run(self._engine, statements, writes=True)
        _, *results = await run(self._engine, [self.renewal, *statements], writes=True)
        self._note_beat()
        return results

    def is_stalled(
        self, owner: InstrumentedAttribute[str] | InstrumentedAttribute[str | None] | ColumnElement[str]
    ) -> ColumnElement[bool]:
        """Return an SQL expression: the process whose id is in the column `owner` is stalled.

        Nothing may follow from it unless `can_judge` is true after the query.
        """
        row = ProcessHeartbeat
        return ~exists().where(row.process_id == owner, row.beat_at > self._oldest_fresh)

    @property
    def is_beating(self) -> bool:
        """Whether others take this process for one that lives."""
        return time.monotonic() - self._last_beat <= STALLED_SECONDS

    @property
    def can_judge(self) -> bool:
        """Whether this process has itself beaten without a gap for as long as another may be silent.

        After an outage of the database every row is old; so the owners that live have time to renew theirs first.
        """
        now = time.monotonic()
        return now - self._last_beat <= MAX_GAP_SECONDS and now - self._unbroken_since >= STALLED_SECONDS

    async def close(self) -> None:
        """Stop, and delete the row. Everything that this process owned must be released."""
        if self._loop is not None:
            await cancel(self._loop)
        if self._last_beat == -math.inf:
            return
        with self._outage.guard():
            await run(self._engine, [self._deletion], writes=True)

    async def _beat(self) -> None:
        if not self._holds:
            return
        await run(self._engine, [self.renewal], writes=True, timeout_seconds=BEAT_TIMEOUT_SECONDS, quietly=True)
        self._note_beat()
        if time.monotonic() >= self._next_cleaning:
            self._next_cleaning = time.monotonic() + ROWS_KEPT_SECONDS
            await run(self._engine, [self._cleaning], writes=True)

    def _note_beat(self) -> None:
        now = time.monotonic()
        if now - self._last_beat > MAX_GAP_SECONDS:
            self._unbroken_since = now
        self._last_beat = now
