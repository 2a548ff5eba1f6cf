"""Databases that cannot be reached, say nothing, or are only slow: how long a transaction waits, and what comes after.

Times are bounded with room for a slow machine; a transaction that is not bounded takes minutes.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.batch_writer import create_batch_writer
from app.database.engine import availability_of, create_engine
from app.database.migrate import migrate
from app.database.pipeline import run
from app.database.statements import Statement
from app.database.transactions import TOTAL_TIMEOUT_SECONDS, read, write
from app.errors import AppError, DatabaseUnavailable
from app.runtime.availability import Availability
from tests.servers.waiting import wait_until
from tests.support.databases import TestDatabase, admin_engine
from tests.support.silence import Way, way_to

# A busy machine may be late by so much.
SLACK_SECONDS = 5.0
CONNECTION_ID = [Statement("SELECT CONNECTION_ID()")]
INSERT = "INSERT INTO process_heartbeat (process_id, beat_at) VALUES (%s, '2026-01-01')"


@asynccontextmanager
async def engine_on(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(Settings(database=DatabaseSettings.model_validate({"url": url})))
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def engine_behind(database: TestDatabase) -> AsyncIterator[tuple[AsyncEngine, Way]]:
    """An engine, and the way to its server."""
    async with way_to(database.url) as way, engine_on(way.url) as engine:
        yield engine, way


def knowledge(engine: AsyncEngine) -> Availability:
    availability = availability_of(engine)
    assert availability is not None
    return availability


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)
    return engine.pool.checkedout()


async def select_one(connection: AsyncConnection) -> Any:
    return await connection.scalar(text("SELECT 1"))


async def number_of(engine: AsyncEngine) -> int:
    """The server's number of a connection from the pool."""
    ((number,),) = (await run(engine, CONNECTION_ID, writes=False))[0]
    assert isinstance(number, int)
    return number


async def until(engine: AsyncEngine, *, is_away: bool) -> None:
    known = knowledge(engine)
    await asyncio.to_thread(wait_until, lambda: known.is_away == is_away, f"is_away: {is_away}")


async def test_behind_a_black_hole_the_first_wait_and_the_others_are_refused(mysql_database: TestDatabase) -> None:
    async with engine_behind(mysql_database) as (engine, way):
        assert await asyncio.gather(*(read(engine, select_one) for _ in range(5))) == [1] * 5
        way.cut()
        began = time.monotonic()
        works = [
            *(read(engine, select_one) for _ in range(20)),
            *(write(engine, select_one) for _ in range(20)),
            *(run(engine, CONNECTION_ID, writes=True) for _ in range(20)),
        ]
        ends = await asyncio.gather(*works, return_exceptions=True)
        # Those without a connection of the pool are let go, too.
        assert time.monotonic() - began < TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS
        assert {type(end) for end in ends} == {DatabaseUnavailable}
        assert knowledge(engine).is_away
        assert checked_out(engine) == 0
        # It is not even tried.
        connects: list[None] = []
        event.listen(engine.sync_engine, "do_connect", lambda *_: connects.append(None))
        for _ in range(100):
            with pytest.raises(DatabaseUnavailable) as refused:
                await read(engine, select_one)
            assert refused.value.retry_after_seconds
        assert connects == []
        way.mend()
        # By the probe: no request finds it out.
        await until(engine, is_away=False)
        # Those in the pool would say nothing.
        assert await asyncio.gather(*(read(engine, select_one) for _ in range(5))) == [1] * 5
        assert checked_out(engine) == 0


async def test_connections_from_before_an_outage_are_replaced(mysql_database: TestDatabase) -> None:
    """They may be dead, as behind a firewall that has forgotten them; each would cost a request its patience."""
    async with engine_behind(mysql_database) as (engine, way):
        writer = create_batch_writer(engine)
        try:
            before = set(await asyncio.gather(*(number_of(engine) for _ in range(3))))
            await writer.write([Statement(INSERT, ("a" * 32,))])
            way.cut()
            knowledge(engine).suspect()
            await until(engine, is_away=True)
            with pytest.raises(DatabaseUnavailable):
                await writer.write([Statement(INSERT, ("b" * 32,))])
            way.mend()
            await until(engine, is_away=False)
            began = time.monotonic()
            assert not set(await asyncio.gather(*(number_of(engine) for _ in range(3)))) & before
            await writer.write([Statement(INSERT, ("c" * 32,))])
            # A silent connection would have been waited for.
            assert time.monotonic() - began < 0.7 * TOTAL_TIMEOUT_SECONDS
            rows = (await run(engine, [Statement("SELECT process_id FROM process_heartbeat")], writes=False))[0]
            assert sorted(name[0] for (name,) in rows) == ["a", "c"]
        finally:
            await writer.close()


async def test_a_batch_that_does_not_leave_is_given_up(mysql_database: TestDatabase) -> None:
    """More than the buffers between us and the server hold: closing the connection must not wait for it, too."""
    async with engine_behind(mysql_database) as (engine, way):
        writer = create_batch_writer(engine)
        try:
            await writer.write([Statement("DO 1")])
            way.cut()
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                await writer.write([Statement("DO %s", ("x" * 30_000_000,))])
            assert time.monotonic() - began < TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS
        finally:
            await writer.close()


async def test_a_slow_statement_and_a_lock_are_no_outage(mysql_database: TestDatabase) -> None:
    async with engine_on(mysql_database.url) as engine:
        await run(engine, [Statement(INSERT, ("a" * 32,))], writes=True)
        update = Statement("UPDATE process_heartbeat SET beat_at = NOW() WHERE process_id = %s", ("a" * 32,))
        async with engine.connect() as holder:
            await holder.exec_driver_sql("UPDATE process_heartbeat SET beat_at = '2026-01-02'")
            began = time.monotonic()
            blocked = asyncio.create_task(run(engine, [update], writes=True))
            slow = asyncio.create_task(run(engine, [Statement("SELECT SLEEP(2)")], writes=False))
            while not blocked.done():
                await number_of(engine)
                assert not knowledge(engine).is_away
                await asyncio.sleep(0.02)
            with pytest.raises(DatabaseUnavailable):
                await blocked
            assert time.monotonic() - began < TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS
            assert list((await slow)[0]) == [(0,)]
            await holder.rollback()
        await run(engine, [update], writes=True)


async def test_a_user_without_a_connection_left(mysql_database: TestDatabase) -> None:
    user = mysql_database.name[:16]
    async with admin_engine(mysql_database.server_url) as admin, admin.connect() as root:
        await root.exec_driver_sql(f"CREATE USER '{user}'@'%%' IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 1")
        await root.exec_driver_sql(f"GRANT ALL ON {mysql_database.name}.* TO '{user}'@'%%'")
        try:
            url = make_url(mysql_database.url).set(username=user, password="x").render_as_string(hide_password=False)
            async with engine_on(url) as other, engine_on(url) as engine:
                async with other.connect():
                    began = time.monotonic()
                    with pytest.raises(DatabaseUnavailable):
                        await read(engine, select_one)
                    assert time.monotonic() - began < TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS
                    await until(engine, is_away=True)
                await other.dispose()
                await until(engine, is_away=False)
                assert await read(engine, select_one) == 1
        finally:
            await root.exec_driver_sql(f"DROP USER '{user}'@'%%'")


async def test_a_refusal_is_told_as_such_and_is_no_outage(mysql_database: TestDatabase) -> None:
    """A database that is gone, or a password that was changed: the next attempt may find it mended."""
    gone = make_url(mysql_database.url).set(database="none_of_this_name").render_as_string(hide_password=False)
    async with engine_on(gone) as engine:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await read(engine, select_one)
        knowledge(engine).suspect()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "availability"))
        assert not knowledge(engine).is_away


async def test_a_locked_sqlite_is_waited_for_and_is_not_away(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    settings = Settings(database=DatabaseSettings.model_validate({"url": f"sqlite:///{path}"}))
    engine = create_engine(settings)
    try:
        await migrate(engine, settings)
        writer = create_batch_writer(engine)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        ends = await asyncio.gather(
            *(write(engine, select_one) for _ in range(3)),
            writer.write([Statement(INSERT, ("a" * 32,))]),
            return_exceptions=True,
        )
        assert time.monotonic() - began < TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS
        assert all(isinstance(end, AppError) and end.status == 503 for end in ends), ends
        assert await read(engine, select_one) == 1
        other.execute("ROLLBACK")
        other.close()
        assert await write(engine, select_one) == 1
        await writer.write([Statement(INSERT, ("b" * 32,))])
        await writer.close()
        rows = (await run(engine, [Statement("SELECT process_id FROM process_heartbeat")], writes=False))[0]
        # What was refused is not written after all.
        assert [name[0] for (name,) in rows] == ["b"]
    finally:
        await engine.dispose()
