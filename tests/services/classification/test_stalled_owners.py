"""A lease is never taken from an owner that beats, and ends with its owner, however that ends."""

import asyncio
import time

from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.database.heartbeat import STALLED_SECONDS
from app.runtime.background import cancel
from tests.support.leases import IMAGE, Process, age_heartbeats, process, put_row, rows, soon


def result(category: Category) -> ModelResult:
    return ModelResult(category, 0.9, None, {})


async def stand_still(process: Process) -> None:
    """As SIGSTOP, or an event loop that does not come round."""
    assert process.heartbeat._loop is not None
    await cancel(process.heartbeat._loop)


async def test_an_owner_that_beats_keeps_it_however_long_it_takes(
    ours: Process, theirs: Process, engine: AsyncEngine
) -> None:
    assert await theirs.claim()
    assert await ours.is_held_up(STALLED_SECONDS + 2)
    assert not await ours.claim()
    [row] = await rows(engine)
    assert row.owner == theirs.heartbeat.process_id


async def test_the_lease_of_an_owner_that_is_gone_is_handed_on(ours: Process, engine: AsyncEngine) -> None:
    await put_row(engine)
    assert not await ours.claim()
    await ours.store.wait(IMAGE, soon())
    assert await rows(engine) == []
    assert await ours.claim()


async def test_the_first_result_counts_where_a_stalled_owner_comes_back(engine: AsyncEngine) -> None:
    async with process(engine) as theirs, process(engine) as ours:
        assert await theirs.claim()
        await stand_still(theirs)
        await ours.store.wait(IMAGE, soon())
        assert await ours.claim()
        # What the old owner does concerns its own rows only.
        await theirs.release(IMAGE)
        assert [row.owner for row in await rows(engine)] == [ours.heartbeat.process_id]
        first = await theirs.save(result(Category.FOODS))
        assert [row.owner for row in await rows(engine)] == [ours.heartbeat.process_id]
        assert await ours.save(result(Category.PETS)) == first
        assert await rows(engine) == []


async def test_after_an_outage_the_owner_has_time_to_beat_again(
    ours: Process, theirs: Process, engine: AsyncEngine
) -> None:
    """Its row is old, and those that wait have not beaten for as long."""
    assert await theirs.claim()
    await age_heartbeats(engine)
    assert await ours.is_held_up(STALLED_SECONDS + 1)
    assert not await ours.claim()


async def test_what_is_taken_over_is_not_taken_from_the_next(
    ours: Process, theirs: Process, engine: AsyncEngine
) -> None:
    """A process that looked before the new owner came is late with its DELETE."""
    assert await theirs.claim()
    await ours.store._delete([(IMAGE, "f" * 32)])
    assert [row.owner for row in await rows(engine)] == [theirs.heartbeat.process_id]


async def test_leases_of_processes_that_are_gone_are_deleted_though_no_request_asks(
    ours: Process, engine: AsyncEngine
) -> None:
    for number in range(2):
        await put_row(engine, image_hash=f"{number:064x}")
    assert await ours.claim()
    deadline = soon()
    while len(await rows(engine)) > 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert [row.image_hash for row in await rows(engine)] == [IMAGE]
