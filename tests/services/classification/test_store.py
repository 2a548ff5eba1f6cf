"""A lease has one owner, and ends with what it was taken for."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from pymysql.err import ProgrammingError
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.database import heartbeat as heartbeat_module
from app.database.pipeline import Rows, run
from app.database.statements import Statement
from app.database.tables.classification import CachedImage
from app.errors import DatabaseUnavailable
from app.services.classification import saving
from app.services.classification import store as store_module
from app.services.classification.outcomes import Found
from tests.support.leases import IMAGE, Process, process, put_row, rows, soon

RESULT = ModelResult(Category.FOODS, 0.9, None, {})


@pytest.fixture
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "ORPHANS_SECONDS", 0.1)


async def entries(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(CachedImage.__table__))).all())


async def until_there_are(count: int, engine: AsyncEngine) -> None:
    deadline = soon()
    while len(await rows(engine)) != count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_one_of_two_gets_it_every_time(ours: Process, theirs: Process, engine: AsyncEngine) -> None:
    for _ in range(25):
        won = await asyncio.gather(ours.claim(), theirs.claim())
        assert sorted(won) == [False, True]
        await asyncio.gather(ours.release(IMAGE), theirs.release(IMAGE))
        assert await rows(engine) == []


async def test_many_processes_ask_the_model_once(engine: AsyncEngine) -> None:
    calls = 0

    async def answer() -> Category:
        nonlocal calls
        async with process(engine) as one, one.store.turn(IMAGE, soon(), one.bill()) as found:
            if found is not None:
                return found.category
            calls += 1
            await asyncio.sleep(0.1)
            return (await one.save(RESULT)).category

    assert await asyncio.gather(*(answer() for _ in range(6))) == [Category.FOODS] * 6
    assert calls == 1
    assert await rows(engine) == []


async def test_what_is_not_saved_is_released_for_the_next(ours: Process, theirs: Process, engine: AsyncEngine) -> None:
    async def fail() -> None:
        async with ours.store.turn(IMAGE, soon(), ours.bill()) as found:
            assert found is None
            assert len(await rows(engine)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await rows(engine) == []
    async with theirs.store.turn(IMAGE, soon(), theirs.bill()) as found:
        assert found is None


async def test_a_waiter_goes_on_when_it_is_released(ours: Process, theirs: Process) -> None:
    assert await theirs.claim()
    waiting = asyncio.create_task(ours.store.wait(IMAGE, soon()))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await theirs.release(IMAGE)
    await waiting
    assert await ours.claim()


async def test_what_is_known_is_found_and_not_claimed(ours: Process, theirs: Process, engine: AsyncEngine) -> None:
    saved = await theirs.save(RESULT)
    assert await ours.store.claim_or_find(IMAGE, ours.bill()) == Found(saved)
    assert await rows(engine) == []


async def test_a_result_and_the_end_of_its_lease_are_one_transaction(
    ours: Process, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await ours.claim()
    with monkeypatch.context() as patch:
        patch.setattr(saving, "lease_deletion", lambda *_: Statement("no SQL"))
        with pytest.raises(OperationalError if engine.dialect.name == "sqlite" else ProgrammingError):
            await ours.save(RESULT)
    assert len(await rows(engine)) == 1
    assert await entries(engine) == []
    await ours.save(RESULT)
    assert await rows(engine) == []
    assert len(await entries(engine)) == 1


@pytest.mark.parametrize("local", [True, False])
async def test_it_ends_too_when_there_is_an_entry_already(engine: AsyncEngine, local: bool) -> None:
    """One that came in meanwhile, as from an owner that was taken for stalled."""
    async with process(engine, local=local) as ours, process(engine, local=True) as theirs:
        assert await ours.claim()
        await theirs.save(RESULT, model="local/1")
        assert len(await rows(engine)) == 1
        await ours.save(RESULT)
    assert await rows(engine) == []
    assert [entry.model_used for entry in await entries(engine)] == ["local/1" if local else "m"]


async def test_a_new_photo_costs_two_transactions(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first beat of a process travels with its claim."""
    sent: list[list[str]] = []

    async def note(used: AsyncEngine, statements: Sequence[Statement], **options: Any) -> list[Rows]:
        if any(IMAGE in statement.parameters for statement in statements):
            sent.append([statement.text.split("(")[0] for statement in statements])
        return await run(used, statements, **options)

    for module in (heartbeat_module, store_module, saving):
        monkeypatch.setattr(module, "run", note)
    async with process(engine) as one, one.store.turn(IMAGE, soon(), one.bill()):
        await one.save(RESULT)
    claim, save = sent
    assert len(claim) == 4
    assert "process_heartbeat" in claim[0]
    assert len(save) == 4


async def test_waiting_ends(ours: Process, theirs: Process) -> None:
    assert await theirs.claim()
    assert await ours.is_held_up(0)


async def test_the_next_one_asks_after_an_uncertain_commit(ours: Process, engine: AsyncEngine) -> None:
    """The connection broke after COMMIT: the second attempt finds the row of the first, and knows it as its own."""
    assert await ours.claim()
    assert await ours.claim()
    await ours.release(IMAGE)
    assert await rows(engine) == []


@pytest.mark.usefixtures("frequent_looks")
async def test_what_could_not_be_released_is_released_later(ours: Process, engine: AsyncEngine) -> None:
    assert await ours.claim()
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE model_call_lease RENAME TO hidden")
    try:
        await ours.release(IMAGE)
    finally:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE hidden RENAME TO model_call_lease")
    await until_there_are(0, engine)
    assert await ours.claim()


@pytest.mark.usefixtures("frequent_looks")
async def test_a_claim_with_an_unknown_outcome_leaves_nothing(
    ours: Process, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_and_lose_the_answer(*arguments: Any, **options: Any) -> list[Rows]:
        await run(*arguments, **options)
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(heartbeat_module, "run", run_and_lose_the_answer)
        with pytest.raises(DatabaseUnavailable):
            await ours.claim()
    await until_there_are(0, engine)


@pytest.mark.usefixtures("frequent_looks")
async def test_a_row_that_comes_after_its_claim_was_given_up_is_deleted(
    ours: Process, theirs: Process, engine: AsyncEngine
) -> None:
    """Its owner lives, and knows nothing of it. What the owner does know of stays."""
    other = "b" * 64
    assert await theirs.claim(other)
    await put_row(engine, owner=theirs.heartbeat.process_id)
    await ours.store.wait(IMAGE, soon())
    assert [row.image_hash for row in await rows(engine)] == [other]
    await asyncio.sleep(0.5)
    assert [row.image_hash for row in await rows(engine)] == [other]


async def test_a_claim_waits_for_a_deletion_that_is_under_way(
    ours: Process, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the deletion of the old row could hit the new lease."""
    await put_row(engine, owner=ours.heartbeat.process_id)
    await ours.heartbeat.write([])
    may_delete, deletes = asyncio.Event(), asyncio.Event()

    async def run_late(*arguments: Any, **options: Any) -> list[Rows]:
        deletes.set()
        await may_delete.wait()
        return await run(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "run", run_late)
        deleting = asyncio.create_task(ours.store._delete_orphans())
        await deletes.wait()
        claiming = asyncio.create_task(ours.claim())
        await asyncio.sleep(0.2)
        assert not claiming.done()
        may_delete.set()
        await deleting
        assert await claiming
    assert len(await rows(engine)) == 1


async def test_leases_are_gone_after_the_end(engine: AsyncEngine) -> None:
    async with process(engine) as one:
        assert await one.claim()
    assert await rows(engine) == []
