"""A lease has one holder, ends with it however it ends, and is never taken from the living."""

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymysql.err import ProgrammingError
from sqlalchemy import ColumnElement, event, func, insert, literal_column, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.config import DatabaseSettings, Settings
from app.database import presence as presence_module
from app.database.engine import create_engine
from app.database.packets import Rows, run
from app.database.presence import Presence, create_presence
from app.database.statements import Statement, seconds_from_now
from app.database.tables import CachedImage, ModelCallLease
from app.errors import DatabaseUnavailable, ModelTimeout
from app.services import lease as lease_module
from app.services.cache import CacheService
from app.services.lease import LeaseService
from tests.database.test_engine import going_silent
from tests.databases import TestDatabase, admin_engine, rollups_for

IMAGE = "a" * 64
RESULT = ModelResult(Category.FOODS, 0.9, None, {})
# Waits end as soon as what they wait for is there; this is for a machine that is busy with other things.
PATIENCE_SECONDS = 60


@asynccontextmanager
async def process(engine: AsyncEngine) -> AsyncIterator[tuple[LeaseService, Presence]]:
    """What a process has of its own."""
    presence = create_presence(engine)
    leases = LeaseService(engine, presence)
    try:
        yield leases, presence
    finally:
        await leases.close()


async def take(leases: LeaseService) -> bool:
    """Try to get the lease, with a look that finds nothing."""
    is_ours, found = await leases.take(IMAGE, Statement("SELECT 1 FROM (SELECT 1 AS one) AS one WHERE one = %s", (0,)))
    assert list(found) == []
    return is_ours


@pytest.fixture
async def ours(engine: AsyncEngine) -> AsyncIterator[LeaseService]:
    async with process(engine) as (leases, _):
        yield leases


@pytest.fixture
async def theirs(engine: AsyncEngine) -> AsyncIterator[tuple[LeaseService, Presence]]:
    async with process(engine) as both:
        yield both


def soon() -> float:
    return time.monotonic() + PATIENCE_SECONDS


async def rows(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(ModelCallLease))).all())


async def put_row(
    engine: AsyncEngine, *, witness: str | None, seconds: int, image_hash: str = IMAGE, holder: str = "f" * 32
) -> None:
    """A lease of a process that is no more (or on a server that is not ours), ending in so many seconds."""
    expiry: ColumnElement[Any] = literal_column(seconds_from_now(engine.dialect.name, seconds))
    async with engine.begin() as connection:
        await connection.execute(
            insert(ModelCallLease).values(image_hash=image_hash, holder=holder, witness=witness, expires_at=expiry)
        )


async def expire(engine: AsyncEngine) -> None:
    expiry: ColumnElement[Any] = literal_column(seconds_from_now(engine.dialect.name, -1))
    async with engine.begin() as connection:
        await connection.execute(update(ModelCallLease).values(expires_at=expiry))


async def is_held_for(leases: LeaseService, seconds: float) -> bool:
    """Whether a process that waits gets nothing within that time."""
    try:
        await leases.wait(IMAGE, time.monotonic() + seconds)
    except ModelTimeout:
        return True
    return False


@contextmanager
def refusing_locks(engine: AsyncEngine) -> Iterator[None]:
    """A database server without named locks, or a file system without locks."""

    def refuse(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("GET_LOCK(", "NO_SUCH_FUNCTION("), parameters

    def refuse_file(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    event.listen(engine.sync_engine, "before_cursor_execute", refuse, retval=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(presence_module, "_locked", refuse_file)
            yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", refuse)


async def test_one_of_two_gets_it_every_time(
    ours: LeaseService, theirs: tuple[LeaseService, Presence], engine: AsyncEngine
) -> None:
    for _ in range(25):
        won = await asyncio.gather(take(ours), take(theirs[0]))
        assert sorted(won) == [False, True]
        await asyncio.gather(ours.release(IMAGE), theirs[0].release(IMAGE))
        assert await rows(engine) == []


async def test_many_processes_ask_the_model_once(engine: AsyncEngine) -> None:
    """The way of the classifier: look, take or wait, look again."""
    cache = CacheService(engine, accepts_provisional=False, rollups=rollups_for(engine))
    calls = 0

    async def answer(leases: LeaseService) -> None:
        nonlocal calls
        while await cache.get(IMAGE) is None:
            if not await take(leases):
                await leases.wait(IMAGE, soon())
                continue
            if await cache.get(IMAGE) is None:
                calls += 1
                await asyncio.sleep(0.1)
                await cache.save(IMAGE, RESULT, model="m", together_with=[leases.deletion(IMAGE)])
                leases.forget(IMAGE)
            await leases.release(IMAGE)

    processes = [LeaseService(engine, create_presence(engine)) for _ in range(6)]
    try:
        await asyncio.gather(*map(answer, processes))
    finally:
        for leases in processes:
            await leases.close()
    assert calls == 1
    assert await rows(engine) == []


async def test_who_waits_goes_on_when_it_is_released(ours: LeaseService, theirs: tuple[LeaseService, Presence]) -> None:
    assert await take(theirs[0])
    waiting = asyncio.create_task(ours.wait(IMAGE, soon()))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await theirs[0].release(IMAGE)
    await waiting
    assert await take(ours)


async def test_nobody_gets_it_for_what_is_known(ours: LeaseService, engine: AsyncEngine) -> None:
    cache = CacheService(engine, accepts_provisional=False, rollups=rollups_for(engine))
    saved = await cache.save(IMAGE, RESULT, model="m")
    is_ours, found = await ours.take(IMAGE, cache.look_up(IMAGE))
    assert not is_ours
    assert await cache.found(found) == saved
    assert await rows(engine) == []


async def test_a_result_and_the_end_of_its_lease_are_one_transaction(ours: LeaseService, engine: AsyncEngine) -> None:
    assert await take(ours)
    cache = CacheService(engine, accepts_provisional=False, rollups=rollups_for(engine))
    with pytest.raises(OperationalError if engine.dialect.name == "sqlite" else ProgrammingError):
        await cache.save(IMAGE, RESULT, model="m", together_with=[ours.deletion(IMAGE), Statement("no SQL")])
    assert len(await rows(engine)) == 1
    assert await cache.get(IMAGE) is None
    await cache.save(IMAGE, RESULT, model="m", together_with=[ours.deletion(IMAGE)])
    assert await rows(engine) == []
    assert await cache.get(IMAGE) is not None


@pytest.mark.parametrize("local", [True, False])
async def test_it_ends_too_when_there_is_an_entry_already(ours: LeaseService, engine: AsyncEngine, local: bool) -> None:
    cache = CacheService(engine, accepts_provisional=local, rollups=rollups_for(engine))
    await cache.save(IMAGE, RESULT, model="local/1")
    assert await take(ours)
    await cache.save(IMAGE, RESULT, model="m", together_with=[ours.deletion(IMAGE)])
    assert await rows(engine) == []
    async with engine.connect() as connection:
        assert await connection.scalar(select(CachedImage.model_used)) == ("local/1" if local else "m")


async def test_a_living_holder_keeps_it_however_old_it_is(
    ours: LeaseService, theirs: tuple[LeaseService, Presence], engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 3600)
    assert await take(theirs[0])
    await expire(engine)
    assert await is_held_for(ours, 1.5)
    assert not await take(ours)


async def test_a_row_that_a_living_process_knows_nothing_of_is_deleted(
    ours: LeaseService, theirs: tuple[LeaseService, Presence], engine: AsyncEngine
) -> None:
    """Such as one from a packet that was given up and reached the server all the same."""
    witness = await theirs[1].announce()
    await put_row(engine, witness=witness, seconds=-lease_module.ABANDONED_SECONDS - 2, holder=theirs[1].holder)
    await ours.wait(IMAGE, soon())
    assert await rows(engine) == []


async def test_a_dead_holder_loses_it_at_once(
    ours: LeaseService, theirs: tuple[LeaseService, Presence], engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 3600)
    assert await take(theirs[0])
    [row] = await rows(engine)
    assert row.witness is not None
    # All that its death does.
    await theirs[1].close()
    await ours.wait(IMAGE, soon())
    assert await rows(engine) == []
    assert await take(ours)
    assert row.holder not in str(await rows(engine))


async def test_what_is_taken_over_is_not_taken_from_the_next(
    ours: LeaseService, theirs: tuple[LeaseService, Presence], engine: AsyncEngine
) -> None:
    await put_row(engine, witness=None, seconds=-1)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM model_call_lease"))
    assert await take(theirs[0])
    # Somebody who looked before the new holder came is late with its DELETE.
    await ours._bury(IMAGE, "f" * 32, only_expired=False)
    assert len(await rows(engine)) == 1


@pytest.mark.parametrize("witness", [None, "0" * 32])
async def test_where_nobody_can_tell_it_ends_by_expiry(
    ours: LeaseService, engine: AsyncEngine, witness: str | None
) -> None:
    """Of a process on another node of a cluster nothing is known but when it last renewed."""
    await put_row(engine, witness=witness, seconds=3600)
    assert await is_held_for(ours, 0.8)
    await expire(engine)
    # Its holder may be about to renew it, after a failover that kept it from doing so.
    assert await is_held_for(ours, 1.0)
    await ours.wait(IMAGE, soon())
    assert await take(ours)


async def test_without_locks_it_is_renewed(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, ours: LeaseService
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.05)
    with refusing_locks(engine):
        async with process(engine) as (theirs, _):
            assert await take(theirs)
            [row] = await rows(engine)
            assert row.witness is None
            await expire(engine)
            deadline = soon()
            while (await rows(engine))[0].expires_at <= row.expires_at:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert await is_held_for(ours, 0.5)
            # Its event loop stands still, or the machine is gone.
            monkeypatch.setattr(lease_module, "RENEW_SECONDS", 3600)
            await asyncio.sleep(0.2)
            await expire(engine)
            await ours.wait(IMAGE, soon())
            assert await take(ours)
            # The old holder comes back: what it does now concerns its own rows only.
            await theirs.release(IMAGE)
            assert len(await rows(engine)) == 1


async def test_waiting_ends(ours: LeaseService, theirs: tuple[LeaseService, Presence]) -> None:
    assert await take(theirs[0])
    assert await is_held_for(ours, 0)


async def test_the_next_one_asks_after_an_uncertain_commit(ours: LeaseService, engine: AsyncEngine) -> None:
    """The connection broke after COMMIT: the second attempt finds the row of the first, and knows it as its own."""
    assert await take(ours)
    assert await take(ours)
    await ours.release(IMAGE)
    assert await rows(engine) == []


async def test_what_could_not_be_released_is_released_later(
    ours: LeaseService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.3)
    assert await take(ours)
    broken = True

    def fail_at_delete(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if broken and statement.startswith("DELETE"):
            raise OperationalError(statement, {}, Exception(9999, "the disk is on fire"))

    event.listen(engine.sync_engine, "before_cursor_execute", fail_at_delete)
    await ours.release(IMAGE)
    assert len(await rows(engine)) == 1
    # The deletion that is due could hit a new lease, so it comes first, and its failure is told.
    with pytest.raises(OperationalError):
        await take(ours)
    broken = False
    await ours.wait(IMAGE, soon())
    deadline = soon()
    while not await take(ours):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert len(await rows(engine)) == 1


async def test_an_insert_with_an_unknown_outcome_leaves_nothing(
    ours: LeaseService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.05)

    async def run_and_lose_the_answer(*arguments: Any, **options: Any) -> list[Rows]:
        monkeypatch.setattr(lease_module, "run", run)
        await run(*arguments, **options)
        raise DatabaseUnavailable

    monkeypatch.setattr(lease_module, "run", run_and_lose_the_answer)
    with pytest.raises(DatabaseUnavailable):
        await take(ours)
    deadline = soon()
    while await rows(engine):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_leases_are_gone_after_the_end(engine: AsyncEngine) -> None:
    async with process(engine) as (leases, _):
        assert await take(leases)
    assert await rows(engine) == []


async def test_rows_that_nobody_asks_for_are_swept_away(ours: LeaseService, engine: AsyncEngine) -> None:
    await put_row(engine, witness=None, seconds=-4000, image_hash="b" * 64)
    await put_row(engine, witness=None, seconds=-3000, image_hash="c" * 64)
    assert await take(ours)
    assert {row.image_hash for row in await rows(engine)} == {IMAGE, "c" * 64}


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
