"""A paid answer that the database does not take is in the spool, and is stored once, whichever process does it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.clients.metering import CallOutcome, ModelCall
from app.database.pipeline import run
from app.database.tables.classification import CachedImage
from app.errors import DatabaseUnavailable
from app.services.classification import saving
from app.services.classification.outcomes import Claimed, Found
from app.services.privacy.service import PrivacyService
from app.services.request_log.record import Caller, user_id_of_account
from app.services.spending.bill import Bill
from app.services.spending.prices import Price
from tests.support.leases import IMAGE, Process, process, rows, soon
from tests.support.ledgers import check_ledgers_agree
from tests.support.spending import bill_for, ledger_of
from tests.support.spools import spool_files, spool_in

RESULT = ModelResult(Category.PETS, 0.93, "一只猫", {"answer": "pets"})
OTHER_RESULT = ModelResult(Category.FOODS, 0.5, None, {"answer": "foods"})
PRICE = Price(per_call_micros=10_000)


@contextmanager
def database_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither an answer nor a bill can be stored."""

    async def fail(*arguments: Any, **options: Any) -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        for name in ("classification.saving.run", "classification.saving.write", "spending.service.run"):
            patch.setattr(f"app.services.{name}", fail)
        yield


def paid_bill(engine: AsyncEngine, **values: Any) -> Bill:
    """One with a call that costs a cent."""
    bill = bill_for(engine, price=PRICE, caller=Caller(**values))
    bill.meter.calls.append(ModelCall(CallOutcome.ANSWERED, is_charged=True, input_tokens=100, output_tokens=10))
    return bill


async def save(process: Process, bill: Bill, result: ModelResult = RESULT) -> Any:
    return await process.store.save_and_release(IMAGE, result, model="m", photo_format="jpg", bill=bill)


async def entries(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(CachedImage.__table__))).all())


async def test_an_answer_is_stored_once_with_its_call_and_its_lease(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path)
    async with process(engine, spool=spool) as ours:
        assert await ours.claim()
        bill = paid_bill(engine, user_id="phone-1")
        with database_away(monkeypatch):
            saved = await save(ours, bill)
            await ours.store.release(IMAGE, bill)
        assert (saved.category, saved.cost_micros, saved.is_stale) == (Category.PETS, 10_000, False)
        assert await entries(engine) == []
        # The lease stays, and its owner beats: no other instance asks again.
        assert len(await rows(engine)) == 1
        assert ours.heartbeat._holds == 2
        await ours.store._delete_orphans()
        assert len(await rows(engine)) == 1
        await spool.replay()
        assert ours.heartbeat._holds == 1
        [entry] = await entries(engine)
        assert (entry.category, entry.model_used, entry.model_response) == ("pets", "m", {"answer": "pets"})
        [call] = await ledger_of(engine)
        assert (call.cost_micros, call.user_id) == (10_000, "phone-1")
        await check_ledgers_agree(engine)
        # The lease can be had again, and is not needed.
        assert isinstance(await ours.store.claim_or_find(IMAGE, ours.bill()), Found)
    assert spool_files(tmp_path) == []


async def test_an_answer_of_a_process_that_is_gone_is_stored_before_another_may_ask(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_spool, spool = spool_in(tmp_path), spool_in(tmp_path)
    async with process(engine, spool=dead_spool) as dead, process(engine, spool=spool) as ours:
        assert await dead.claim()
        with database_away(monkeypatch):
            await save(dead, paid_bill(engine))
        dead_spool._close_files()
        dead.store._saving.spooled.clear()
        asking = asyncio.create_task(_turn(ours))
        await asyncio.sleep(0.5)
        assert not asking.done()
        await spool.replay()
        found = await asking
        assert found is not None
        assert found.category is Category.PETS
    await check_ledgers_agree(engine)


async def _turn(process: Process) -> Any:
    async with process.store.turn(IMAGE, soon(), process.bill()) as found:
        return found


async def test_a_spooled_answer_keeps_no_request_waiting_while_the_database_is_away(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path)
    async with process(engine, spool=spool) as ours:
        assert await ours.claim()
        with database_away(monkeypatch):
            await save(ours, paid_bill(engine))

        async def fail(*arguments: Any, **options: Any) -> None:
            raise DatabaseUnavailable

        with monkeypatch.context() as patch:
            patch.setattr("app.database.heartbeat.run", fail)
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(_turn(ours), 60)
        await spool.replay()


async def test_an_answer_whose_commit_was_not_answered_is_stored_once(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path)
    async with process(engine, spool=spool) as ours:
        assert await ours.claim()

        async def run_unheard(*arguments: Any, **options: Any) -> Any:
            await run(*arguments, **options)
            raise DatabaseUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(saving, "run", run_unheard)
            await save(ours, paid_bill(engine))
        assert len(await entries(engine)) == 1
        await spool.replay()
    assert len(await ledger_of(engine)) == 1
    await check_ledgers_agree(engine)


async def test_the_answer_that_another_has_stored_meanwhile_stays_and_both_calls_are_paid(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path)
    async with process(engine, spool=spool) as ours, process(engine) as theirs:
        with database_away(monkeypatch):
            await save(ours, paid_bill(engine))
        await save(theirs, paid_bill(engine), OTHER_RESULT)
        await spool.replay()
        [entry] = await entries(engine)
        assert entry.category == "foods"
    assert len(await ledger_of(engine)) == 2
    await check_ledgers_agree(engine)


async def test_a_provisional_entry_is_replaced_from_the_spool(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path)
    async with process(engine, spool=spool) as ours, process(engine, local=True) as theirs:
        await theirs.save(OTHER_RESULT, model="local/test")
        with database_away(monkeypatch):
            await save(ours, paid_bill(engine))
        await spool.replay()
        [entry] = await entries(engine)
        assert (entry.category, entry.model_used) == ("pets", "m")


async def test_neither_database_nor_spool(engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with process(engine, spool=spool_in(tmp_path, max_bytes=100)) as ours:
        assert await ours.claim()
        with database_away(monkeypatch), pytest.raises(DatabaseUnavailable):
            await save(ours, paid_bill(engine))
        assert spool_files(tmp_path) == []
        # It can be claimed again, as after any failure.
        await ours.release()
        assert isinstance(await ours.store.claim_or_find(IMAGE, ours.bill()), Claimed)
        await ours.release()


async def test_a_call_without_an_answer_is_written_down_from_the_spool(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path)
    async with process(engine, spool=spool) as ours:
        bill = paid_bill(engine)
        with database_away(monkeypatch), pytest.raises(DatabaseUnavailable):
            await ours.store._spending.settle(bill)
        assert not bill.is_due
        assert await ledger_of(engine) == []
        await spool.replay()
        await ours.store._spending.settle(bill)
    assert len(await ledger_of(engine)) == 1
    await check_ledgers_agree(engine)


async def test_the_ledger_does_not_name_a_user_who_was_forgotten_meanwhile(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path)
    async with process(engine, spool=spool) as ours:
        with database_away(monkeypatch):
            await save(ours, paid_bill(engine, user_id="phone-1", api_key_id=3))
            for values in ({"account_id": 7}, {"user_id": "phone-2"}):
                with pytest.raises(DatabaseUnavailable):
                    await ours.store._spending.settle(paid_bill(engine, **values))
        for user_id in ("phone-1", user_id_of_account(7)):
            await PrivacyService(engine).forget(user_id)
        await spool.replay()
    calls = await ledger_of(engine)
    assert [(call.user_id, call.account_id, call.api_key_id) for call in calls] == [
        (None, None, None),
        (None, None, None),
        ("phone-2", None, None),
    ]
