"""Reading from a replica, where there is one, and from the main server while the replica is away.

What a replica says is as old as its replication is behind. So only figures are read here, and nothing that a client
has just written and looks for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from loguru import logger
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.tables.statistics import StatsState
from app.database.transactions import TOTAL_TIMEOUT_SECONDS, read, reason
from app.errors import AppError

T = TypeVar("T")

# The slowest figure takes a tenth of a second (docs/performance.md), a month of a series two; a request shall
# not wait long for a replica that is down.
TIMEOUT_SECONDS = 3.0
# For so long after a failure only the main server is asked; then one request tries the replica.
RETRY_SECONDS = 10.0
# An idle connection that was lost is worth a second try.
MAX_ATTEMPTS = 2


class _AwayError(Exception):
    """The replica is not to be used now."""


class Replica:
    """A replica, and the main server that stands in for it."""

    def __init__(self, main: AsyncEngine, replica: AsyncEngine) -> None:
        self._main = main
        self._replica = replica
        self._is_away = False
        self._next_try = 0.0

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work`, which only reads, on the replica, or else on the main server.

        Raises:
            DatabaseUnavailable, ServerBusy: neither can be used; as `transactions.read`.
        """
        asked_at = time.monotonic()
        with suppress(_AwayError):
            return await self._ask(work)
        # The wait for both together is no longer than for one.
        left_seconds = TOTAL_TIMEOUT_SECONDS - (time.monotonic() - asked_at)
        return await read(self._main, work, timeout_seconds=left_seconds)

    async def is_there(self) -> bool:
        """Return whether figures come from the replica now; it is asked, unless it has just failed."""

        async def select_from_table(connection: AsyncConnection) -> None:
            await connection.execute(select(StatsState.name).limit(1))

        try:
            await self._ask(select_from_table)
        except _AwayError:
            return False
        return True

    async def _ask(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        if self._is_away:
            if time.monotonic() < self._next_try:
                raise _AwayError
            # The others do not wait for this try.
            self._next_try = time.monotonic() + RETRY_SECONDS
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                # An operator who reads the log must not take this for the main server.
                result = await read(self._replica, work, max_attempts=MAX_ATTEMPTS, quietly=True)
        except (AppError, SQLAlchemyError, OSError) as error:
            if not self._is_away:
                logger.warning(
                    "the read replica cannot be used ({}): statistics come from the main server",
                    reason(error.__cause__ or error),
                )
            self._is_away = True
            self._next_try = time.monotonic() + RETRY_SECONDS
            raise _AwayError from error
        if self._is_away:
            logger.info("the read replica is used again")
        self._is_away = False
        return result
