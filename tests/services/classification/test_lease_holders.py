"""A lease is never taken from the living, and ends with its holder, however that ends."""

import asyncio
import time

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.presence import Presence
from app.services.classification import lease as lease_module
from app.services.classification.lease import LeaseService
from tests.support.leases import IMAGE, expire, is_held_for, process, put_row, refusing_locks, rows, soon, take


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


async def test_rows_that_nobody_asks_for_are_swept_away(ours: LeaseService, engine: AsyncEngine) -> None:
    await put_row(engine, witness=None, seconds=-4000, image_hash="b" * 64)
    await put_row(engine, witness=None, seconds=-3000, image_hash="c" * 64)
    assert await take(ours)
    assert {row.image_hash for row in await rows(engine)} == {IMAGE, "c" * 64}
