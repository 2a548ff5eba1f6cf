"""How many answers failed for a reason that was not the caller's, by quarter of an hour and code.

Counting costs an addition; once a second a task of each process adds what it has to the table. What cannot be written
waits: there are few codes, and errors are many just when the database is away.
"""

import asyncio
import random
from collections import Counter
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.statements import Statement, execute, rows_of_placeholders, timestamp_text
from app.database.transactions import write
from app.runtime.background import OutageLog, every
from app.services.request_log.rollups import SHARDS, period_start, upsert_sums

WRITE_SECONDS = 1.0
LAST_WRITE_SECONDS = 2.0
# A quarter of an hour and a code each: a day without a database.
MAX_COUNTS = 2000

# (beginning of the period, code) -> errors that are not in the database yet. Of the process, as Prometheus has it:
# errors happen where there is no service at hand.
_counts: Counter[tuple[datetime, str]] = Counter()


def count_error(code: str) -> None:
    """Count an error now; to be called in the event loop."""
    key = (period_start(utc_now()), code)
    if key in _counts or len(_counts) < MAX_COUNTS:
        _counts[key] += 1


class ErrorCounts:
    """Writes what this process has counted."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._shard = random.randrange(SHARDS)
        self._outage = OutageLog(
            "statistics: errors cannot be counted", recovered="statistics: errors are counted again"
        )

    async def run(self) -> None:
        """Write what was counted once a second until the task is cancelled."""
        await every(WRITE_SECONDS, self._write, outage=self._outage)

    async def close(self) -> None:
        """Write what is left; a database that is away does not keep the service from ending."""
        with self._outage.guard():
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                await self._write()

    async def _write(self) -> None:
        counts = dict(_counts)
        _counts.clear()
        if not counts:
            return
        rows = [
            value
            for (period, code), errors in sorted(counts.items())
            for value in (timestamp_text(period), code, self._shard, errors)
        ]
        text = upsert_sums(
            self._engine.dialect.name,
            table="stats_error",
            keys=("period_start", "code", "shard"),
            sums=("errors",),
            source=f"VALUES {rows_of_placeholders(len(counts), 4)}",
        )

        async def add(connection: AsyncConnection) -> None:
            await execute(connection, Statement(text, rows))

        try:
            await write(self._engine, add)
        except BaseException:
            _counts.update(counts)
            raise
