"""Batches on real databases: all or nothing, in one trip, after deadlocks and lost connections too."""

import asyncio
from typing import Any

import pytest
import uvloop
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.settings import Settings
from app.database.batch_writer import create_batch_writer
from app.database.engine import create_engine
from app.database.pipeline import DuplicateRowError
from app.database.statements import Statement, rows_of_placeholders, timestamp_text, upsert
from app.database.tables.classification import CachedImage
from app.database.tables.statistics import StatsState
from app.database.transactions import read
from tests.support.databases import TestDatabase

HASHES = ["a" * 64, "b" * 64]
HOSTILE = ["'", '"', "\\", "\\'; DROP TABLE request_log; --", "%s", "%", "\n", "😀", "名"]


def set_state(dialect: str, rows: list[tuple[str, str]]) -> Statement:
    source = f"VALUES {rows_of_placeholders(len(rows), 2)}"
    sql = upsert(
        dialect, table="stats_state", keys=["name"], columns="name, value", source=source, updates={"value": "{new}"}
    )
    return Statement(sql, [value for row in rows for value in row])


async def states(engine: AsyncEngine) -> dict[str, str]:
    async with engine.connect() as connection:
        rows = await connection.execute(select(StatsState.name, StatsState.value))
        return {row.name: row.value for row in rows}


async def test_values_arrive_as_they_are(engine: AsyncEngine) -> None:
    writer = create_batch_writer(engine)
    values = {f"v{number}": value for number, value in enumerate(HOSTILE)}
    await writer.write([set_state(engine.dialect.name, list(values.items()))])
    await writer.close()
    assert values.items() <= (await states(engine)).items()


async def test_a_failing_statement_undoes_those_before_it(engine: AsyncEngine) -> None:
    writer = create_batch_writer(engine)
    dialect = engine.dialect.name
    twice = Statement("INSERT INTO stats_state (name, value) VALUES (%s, %s)", ["taken", "1"])
    await writer.write([twice])
    with pytest.raises(DuplicateRowError):
        await writer.write([set_state(dialect, [("taken", "2"), ("new", "3")]), twice])
    await writer.write([set_state(dialect, [("after", "4")])])
    await writer.close()
    kept = await states(engine)
    assert (kept["taken"], kept["after"]) == ("1", "4")
    assert "new" not in kept


async def test_deadlocks_are_tried_again_until_all_is_counted(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            insert(CachedImage),
            [
                {"image_hash": h, "category": "foods", "confidence": 0.9, "model_used": "t", "hit_count": 1}
                for h in HASHES
            ],
        )
    one, other = (
        Statement(
            "UPDATE image_classification_cache SET hit_count = hit_count + 1, last_hit_at = %s WHERE image_hash = %s",
            [timestamp_text(utc_now()), image],
        )
        for image in HASHES
    )
    writers = [create_batch_writer(engine) for _ in range(2)]

    async def write_many(number: int, statements: list[Statement]) -> None:
        for _ in range(30):
            await writers[number].write(statements)

    # In opposite order on purpose: what the recorder's sorting avoids.
    await asyncio.gather(write_many(0, [one, other]), write_many(1, [other, one]))
    for writer in writers:
        await writer.close()
    async with engine.connect() as connection:
        assert (await connection.scalars(select(CachedImage.hit_count))).all() == [61, 61]


async def test_a_lost_connection_is_replaced(engine: AsyncEngine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no connections that a server could end")
    writer = create_batch_writer(engine)
    dialect = engine.dialect.name
    await writer.write([set_state(dialect, [("before", "1")])])
    async with engine.connect() as connection:
        own = await connection.scalar(text("SELECT CONNECTION_ID()"))
        query = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> :own"
        for number in (await connection.scalars(text(query), {"own": own})).all():
            await connection.execute(text(f"KILL {number}"))
    await writer.write([set_state(dialect, [("after", "2")])])
    await writer.close()
    assert {"before", "after"} <= (await states(engine)).keys()


def test_a_connection_that_was_reset_in_silence_is_replaced_on_uvloop(mysql_database: TestDatabase) -> None:
    """The loop of production has a word of its own for it, which no library expects."""
    lost: list[Any] = []

    async def reset_and_write() -> None:
        engine = create_engine(Settings(database=mysql_database.settings))
        try:
            writer = create_batch_writer(engine)
            await writer.write([set_state("mysql", [("before", "1")])])
            async with engine.connect() as connection:
                pooled = (await connection.get_raw_connection()).driver_connection
            # What a lost route looks like from here; the driver does not know.
            own = writer._connection  # type: ignore[attr-defined]
            for each in (pooled, (await own.get_raw_connection()).driver_connection):
                assert each is not None
                each._writer.transport.abort()
                lost.append(each)
            await asyncio.sleep(0.05)
            await writer.write([set_state("mysql", [("after", "2")])])
            assert await read(
                engine, lambda connection: connection.scalar(select(func.count()).select_from(StatsState))
            )
            await writer.close()
        finally:
            await engine.dispose()

    uvloop.run(reset_and_write())
    for each in lost:
        # aiomysql would complain, whenever they are collected, that they were not closed.
        each._writer = None
