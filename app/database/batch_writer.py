"""The busiest transaction takes the shortest way.

On MySQL it is one pipelined transaction (pipeline.py) on a connection that is kept for this; on SQLite one call in a
thread that has a connection of its own. What goes wrong is what `app/database/transactions.py` makes of it.
"""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import aiomysql
from pymysql.err import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.engine import availability_of, prepare_sqlite_connection
from app.database.pipeline import DuplicateRowError, discard, send
from app.database.statements import Statement
from app.database.transactions import with_retries


class BatchWriter(Protocol):
    """Writes all statements of a batch in one transaction, or none."""

    async def write(self, statements: Sequence[Statement]) -> None:
        """Run `statements` in their order and commit; retried like any transaction.

        Raises:
            DuplicateRowError: a unique key is taken.
            DatabaseUnavailable, ServerBusy: as `transactions.write`.
        """

    async def close(self) -> None:
        """Give the connection back."""


def create_batch_writer(engine: AsyncEngine) -> BatchWriter:
    """Return the writer for the database of `engine`; nothing is opened yet."""
    if engine.dialect.name == "sqlite":
        return _SqliteBatchWriter(engine)
    return _MySqlBatchWriter(engine)


class _MySqlBatchWriter:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._recycle_seconds: float = engine.pool._recycle  # noqa: SLF001 - it has no public name
        self._connection: AsyncConnection | None = None
        self._opened_at = 0.0

    async def write(self, statements: Sequence[Statement]) -> None:
        try:
            await with_retries(self._engine, partial(self._write, statements))
        except IntegrityError as error:
            raise DuplicateRowError from error

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _write(self, statements: Sequence[Statement], seconds: float) -> None:
        try:
            driver = await self._driver_connection()
            async with asyncio.timeout(seconds):
                await send(driver, statements)
        except BaseException as error:
            await self._discard(error)
            raise

    async def _driver_connection(self) -> aiomysql.Connection:
        if self._connection is not None and self._is_old():
            await self.close()
        if self._connection is None:
            self._connection = await self._engine.connect()
            self._opened_at = time.monotonic()
        return (await self._connection.get_raw_connection()).driver_connection

    def _is_old(self) -> bool:
        availability = availability_of(self._engine)
        if availability is not None and availability.returned_at > self._opened_at:
            # Who knows whether it has outlived the outage: one behind a firewall would just say nothing.
            return True
        return time.monotonic() - self._opened_at > self._recycle_seconds

    async def _discard(self, error: BaseException) -> None:
        """Close a connection whose transaction failed: the server rolls back, and nothing half-read is left."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await discard(connection, error)
            await connection.close()


class _SqliteBatchWriter:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._connection: sqlite3.Connection | None = None

    async def write(self, statements: Sequence[Statement]) -> None:
        loop = asyncio.get_running_loop()
        try:
            # It ends by itself: SQLite waits for a lock for a second at most.
            await with_retries(
                self._engine, lambda seconds: loop.run_in_executor(self._thread, self._write, statements)
            )
        except sqlite3.IntegrityError as error:
            raise DuplicateRowError from error

    async def close(self) -> None:
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, statements: Sequence[Statement]) -> None:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement.text.replace("%s", "?"), statement.parameters)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self._engine.url.database or "", check_same_thread=False)
            prepare_sqlite_connection(self._connection)
        return self._connection
