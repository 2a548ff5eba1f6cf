"""What stands in a process at the moment: its queue, its connections, its memory; written down once a second.

A scrape is answered by one worker, which cannot look into the others: each writes its own.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from app import VERSION
from app.observability import metrics
from app.runtime.background import OutageLog, every

REFRESH_SECONDS = 1.0
# Linux only; the second number is the resident pages, see proc_pid_statm(5).
_MEMORY = Path("/proc/self/statm")


class ProcessGauges:
    """The gauges of this process.

    Args:
        engine: the database.
        connections_limit: what its pool may open.
        queued_rows: returns how many log rows wait to be written.
        queue_limit_rows: how many may wait.
        spooled_rows: returns how many rows wait on disk.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        connections_limit: int,
        queued_rows: Callable[[], int],
        queue_limit_rows: int,
        spooled_rows: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._queued_rows = queued_rows
        self._spooled_rows = spooled_rows
        self._queue_limit_rows = queue_limit_rows
        self._connections_limit = connections_limit
        self._cpu_seconds = 0.0

    async def run(self) -> None:
        """Write them all once a second until the task is cancelled."""
        metrics.BUILD_INFO.labels(VERSION).set(1)
        metrics.PROCESSES.set(1)
        metrics.LOG_QUEUE_LIMIT_ROWS.set(self._queue_limit_rows)
        metrics.DATABASE_CONNECTIONS_LIMIT.set(self._connections_limit)

        async def refresh() -> None:
            self.refresh()

        outage = OutageLog("metrics of the process cannot be read", recovered="metrics of the process are read again")
        await every(REFRESH_SECONDS, refresh, outage=outage, first_after_seconds=0)

    def refresh(self) -> None:
        """Write down what changes.

        Raises:
            OSError: connections have taken all descriptors, so no file can be opened; the rest is written.
        """
        metrics.LOG_QUEUE_ROWS.set(self._queued_rows())
        metrics.SPOOL_ROWS.set(self._spooled_rows())
        pool = self._engine.pool
        if isinstance(pool, QueuePool):
            metrics.CONNECTIONS_IN_USE.set(pool.checkedout())
            metrics.CONNECTIONS_IDLE.set(pool.checkedin())
        cpu_seconds = time.process_time()
        metrics.PROCESS_CPU_SECONDS.inc(cpu_seconds - self._cpu_seconds)
        self._cpu_seconds = cpu_seconds
        if _MEMORY.exists():
            resident_pages = int(_MEMORY.read_text().split()[1])
            metrics.PROCESS_RESIDENT_BYTES.set(resident_pages * os.sysconf("SC_PAGE_SIZE"))
