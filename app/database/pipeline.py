"""A transaction in one trip: on MySQL all statements and the COMMIT are sent together, and so come their rows back.

SQLAlchemy would send each by itself, and spends more CPU on each than the server does. What goes wrong is what
`app/database/transactions.py` makes of it. A node of a Galera cluster gets its statements one by one: when it undoes a
transaction in favour of another node's, it may report the error and all the same run the rest, and commit it
(tests/scaling/test_galera.py; seen with MariaDB 10.11).
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import aiomysql
from pymysql.err import IntegrityError as DriverIntegrityError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.statements import Statement, execute
from app.database.transactions import is_passing, read, with_retries, write

Rows = Sequence[tuple[Any, ...]]


class DuplicateRowError(Exception):
    """A unique key of the batch is taken: nothing of it was written, or all of it some time before."""


async def run(
    engine: AsyncEngine,
    statements: Sequence[Statement],
    *,
    writes: bool,
    timeout_seconds: float | None = None,
    quietly: bool = False,
) -> list[Rows]:
    """Run `statements` in their order in one transaction, and return the rows of each.

    Args:
        engine: the database.
        statements: safe to be run again from the first: a deadlock or a lost connection makes it so.
        writes: False where all of them only read.
        timeout_seconds: as with `transactions.with_retries`.
        quietly: nothing is logged, the caller tells what is amiss.

    Raises:
        DuplicateRowError: a unique key is taken.
        DatabaseUnavailable, ServerBusy: as `transactions.write`.
    """

    async def one_by_one(connection: AsyncConnection) -> list[Rows]:
        results: list[Rows] = []
        for statement in statements:
            result = await execute(connection, statement)
            results.append([tuple(row) for row in result] if result.returns_rows else ())
        return results

    try:
        if engine.dialect.name == "sqlite":
            transaction = write if writes else read
            return await transaction(engine, one_by_one, timeout_seconds=timeout_seconds, quietly=quietly)
        return await with_retries(
            engine, partial(_run_in_one_trip, engine, statements), timeout_seconds=timeout_seconds, quietly=quietly
        )
    except (IntegrityError, DriverIntegrityError) as error:
        raise DuplicateRowError from error


async def send(driver: aiomysql.Connection, statements: Sequence[Statement]) -> list[Rows]:
    """Send `statements` and a COMMIT on a connection without autocommit; return the rows of each.

    After any error the connection must be closed: it may hold an open transaction, or answers that have not been read.
    """
    texts = [_render(driver, statement) for statement in statements]
    results: list[Rows] = []
    async with driver.cursor() as cursor:
        if driver.is_galera_node:
            for text in texts:
                await cursor.execute(text)
                results.append(await cursor.fetchall())
            await cursor.execute("COMMIT")
            return results
        await cursor.execute(";".join([*texts, "COMMIT"]))
        for _ in statements:
            results.append(await cursor.fetchall())
            await cursor.nextset()
    return results


async def discard(connection: AsyncConnection, error: BaseException) -> None:
    """Close a connection after an error, and have the pool replace the others that are older than a lost one.

    The others were probably lost with it; SQLAlchemy does the same after errors of its own statements.
    """
    with suppress(Exception):
        if is_passing(error):
            connection.engine.pool._invalidate(  # noqa: SLF001 - it has no public name
                await connection.get_raw_connection(), error, _checkin=False
            )
        await connection.invalidate()


async def _run_in_one_trip(engine: AsyncEngine, statements: Sequence[Statement], seconds: float) -> list[Rows]:
    async with engine.connect() as connection:
        try:
            async with asyncio.timeout(seconds):
                return await send((await connection.get_raw_connection()).driver_connection, statements)
        except BaseException as error:
            await discard(connection, error)
            raise


def _render(driver: aiomysql.Connection, statement: Statement) -> str:
    return statement.text % tuple(map(driver.escape, statement.parameters)) if statement.parameters else statement.text
