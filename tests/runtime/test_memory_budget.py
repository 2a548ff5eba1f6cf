"""Memory for uploads: lent in the order of the asking, to each client a share, and never waited for without end."""

import asyncio

import pytest

from app.runtime.client_key import client_key
from app.runtime.memory_budget import MemoryBudget, MemoryTimeoutError


async def test_memory_is_lent_in_the_order_of_the_asking() -> None:
    budget = MemoryBudget(100)
    order: list[str] = []

    async def hold(name: str, size: int, seconds: float) -> None:
        async with budget.reserve(size, client="one", timeout_seconds=5):
            order.append(name)
            await asyncio.sleep(seconds)

    async with asyncio.TaskGroup() as group:
        for name, size in (("first", 60), ("large", 1000), ("small", 10)):
            group.create_task(hold(name, size, 0.02))
            await asyncio.sleep(0)
    assert order == ["first", "large", "small"]


async def test_memory_of_those_who_gave_up_is_free_again() -> None:
    budget = MemoryBudget(100)
    async with budget.reserve(100, client="one", timeout_seconds=5):
        with pytest.raises(MemoryTimeoutError):
            async with budget.reserve(50, client="two", timeout_seconds=0.01):
                pytest.fail("there was none")
        waiting = asyncio.create_task(_hold_some(budget))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with budget.reserve(100, client="two", timeout_seconds=0.01):
        assert budget.free_bytes == 0
    assert budget.free_bytes == 100


async def _hold_some(budget: MemoryBudget) -> None:
    async with budget.reserve(50, client="three", timeout_seconds=5):
        pytest.fail("there was none")


async def test_one_client_holds_no_more_than_its_share() -> None:
    budget = MemoryBudget(100, share_bytes=40)
    with budget.lease("greedy") as first, budget.lease("greedy") as second, budget.lease("other") as other:
        await first.grow(40, timeout_seconds=5)
        waiting = asyncio.create_task(second.grow(10, timeout_seconds=60))
        await asyncio.sleep(0)
        # It is not in the way of others, though it came first.
        await other.grow(40, timeout_seconds=0.01)
        assert budget.free_bytes == 20
        first.shrink(10)
        await waiting
    assert budget.free_bytes == 100


async def test_uploads_that_wait_for_each_other_do_not_wait_without_end() -> None:
    budget = MemoryBudget(100)
    with budget.lease("old") as old:
        await old.grow(50, timeout_seconds=5)

        async def young() -> None:
            with budget.lease("young") as lease:
                await lease.grow(50, timeout_seconds=5)
                await lease.grow(10, timeout_seconds=60)

        giving_up = asyncio.create_task(young())
        await asyncio.sleep(0)
        # Each holds what the other needs; the younger one goes.
        await old.grow(10, timeout_seconds=60)
        with pytest.raises(MemoryTimeoutError):
            await giving_up
    assert budget.free_bytes == 100


async def test_what_is_worked_on_will_be_free() -> None:
    budget = MemoryBudget(100)
    done = asyncio.Event()
    with budget.lease("batch") as lease:
        await lease.grow(90, timeout_seconds=5)

        async def work() -> None:
            with lease.working_on(90):
                await done.wait()

        working = asyncio.create_task(work())
        await asyncio.sleep(0)
        growing = asyncio.create_task(lease.grow(50, timeout_seconds=60))
        await asyncio.sleep(0)
        assert not growing.done()
        done.set()
        await growing
        await working
        assert lease.held_bytes == 50


def test_a_network_is_one_client() -> None:
    assert client_key("192.0.2.1") != client_key("192.0.2.2")
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff:1") != client_key("2001:db8:0:1::1")
    assert client_key(None) == ""


async def test_the_last_part_is_for_one_upload_at_a_time_so_that_all_end() -> None:
    budget = MemoryBudget(1000, share_bytes=400, reserve_bytes=100)

    async def upload(client: str) -> None:
        with budget.lease(client) as lease:
            for _ in range(10):
                await lease.grow(10, timeout_seconds=60)
                # Others go on between two pieces.
                await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(*(upload(f"client {number % 5}") for number in range(100)))
    assert budget.free_bytes == 1000
