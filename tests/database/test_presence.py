"""A process is seen to live as long as it does: also when its connection is lost, or says nothing."""

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database import presence as presence_module
from app.database.engine import create_engine
from app.database.presence import create_presence
from app.database.tables.classification import ModelCallLease
from tests.support.databases import TestDatabase, admin_engine
from tests.support.leases import IMAGE, process, rows, soon, take
from tests.support.silence import going_silent


async def test_a_pool_of_one_connection_is_enough(migrated_database: DatabaseSettings, engine: AsyncEngine) -> None:
    database = migrated_database.model_copy(update={"pool_size": 1, "max_overflow": 0})
    small = create_engine(Settings(database=database))
    try:
        async with process(small) as (leases, _):
            assert await take(leases)
            async with small.connect() as connection:
                assert await connection.scalar(select(func.count()).select_from(ModelCallLease)) == 1
    finally:
        await small.dispose()
    assert await rows(engine) == []


async def test_a_lost_connection_does_not_cost_the_lease(mysql_database: TestDatabase) -> None:
    """KILL, an idle time-out, a restarted proxy: the process lives, and shows it on a new connection."""
    engine = create_engine(Settings(database=mysql_database.settings))
    try:
        async with (
            process(engine) as (theirs, presence),
            process(engine) as (ours, _),
            admin_engine(mysql_database.server_url) as admin,
            admin.connect() as killer,
        ):
            query = text(f"SELECT IS_USED_LOCK('{presence_module._lock_name(presence.holder)}')")
            assert await take(theirs)
            number = await killer.scalar(query)
            assert number is not None
            waiting = asyncio.create_task(ours.wait(IMAGE, soon()))
            await killer.exec_driver_sql(f"KILL {number}")
            deadline = soon()
            while await killer.scalar(query) in {number, None}:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            await asyncio.sleep(1.5)
            assert not waiting.done()
            await theirs.release(IMAGE)
            await waiting
    finally:
        await engine.dispose()


async def test_a_silent_connection_is_kept_open(mysql_database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends a connection that says nothing, so that a machine that lost its power is noticed."""
    monkeypatch.setattr(presence_module, "SILENCE_SECONDS", 1)
    monkeypatch.setattr(presence_module, "PING_SECONDS", 0.2)
    engine = create_engine(Settings(database=mysql_database.settings))
    try:
        async with process(engine) as (leases, presence), engine.connect() as connection:
            assert await take(leases)
            query = text(f"SELECT IS_USED_LOCK('{presence_module._lock_name(presence.holder)}')")
            number = await connection.scalar(query)
            await asyncio.sleep(2.5)
            assert await connection.scalar(query) == number
    finally:
        await engine.dispose()


async def test_a_connection_that_goes_silent_is_replaced(
    mysql_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover: the server that had the lock says nothing any more."""
    monkeypatch.setattr(presence_module, "SILENCE_SECONDS", 2)
    monkeypatch.setattr(presence_module, "PING_SECONDS", 0.1)
    monkeypatch.setattr(presence_module, "STEP_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(presence_module, "GET_LOCK_SECONDS", 0)
    async with going_silent(mysql_database.url) as (url, silence):
        engine = create_engine(Settings(database=DatabaseSettings.model_validate({"url": url})))
        try:
            async with process(engine) as (leases, presence), admin_engine(mysql_database.url) as direct:
                assert await take(leases)
                async with direct.connect() as connection:
                    query = text(f"SELECT IS_USED_LOCK('{presence_module._lock_name(presence.holder)}')")
                    number = await connection.scalar(query)
                    assert number is not None
                    silence()
                    deadline = soon()
                    while await connection.scalar(query) in {number, None}:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.05)
                await leases.release(IMAGE)
        finally:
            await engine.dispose()


async def test_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    engine = create_engine(Settings(database=DatabaseSettings.model_validate({"url": f"sqlite:///{tmp_path}/new.db"})))
    folder = tmp_path / "new.db.holders"
    folder.mkdir()
    (folder / ("f" * 32)).touch()
    first, second = create_presence(engine), create_presence(engine)
    await first.announce()
    await second.announce()
    assert {file.name for file in folder.iterdir()} == {first.holder, second.holder}
    await first.close()
    assert {file.name for file in folder.iterdir()} == {second.holder}
    await second.close()
    await engine.dispose()
