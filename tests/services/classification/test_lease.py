"""A lease has one holder, and ends with what it was taken for."""

import asyncio
import time
from typing import Any

import pytest
from pymysql.err import ProgrammingError
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.database.pipeline import Rows, run
from app.database.presence import Presence, create_presence
from app.database.statements import Statement
from app.database.tables.classification import CachedImage
from app.errors import DatabaseUnavailable
from app.services.cache.service import CacheService
from app.services.classification import lease as lease_module
from app.services.classification.lease import LeaseService
from tests.support.databases import rollups_for
from tests.support.leases import IMAGE, is_held_for, process, rows, soon, take

RESULT = ModelResult(Category.FOODS, 0.9, None, {})


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
