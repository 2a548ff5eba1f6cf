"""The pace of calls while a provider limits our rate: one at a time, none too early, all again after a success."""

import asyncio
import time

import pytest

from app.clients.errors import ModelRateLimited
from app.clients.pacing import Pace


async def test_without_a_limit_all_go_together() -> None:
    pace = Pace()
    async with pace.turn(0), pace.turn(0):
        pass


async def test_with_a_limit_they_go_one_by_one_until_one_succeeds() -> None:
    pace = Pace()
    pace.slow_down(0)
    running = most = 0
    order: list[int] = []

    async def call(number: int) -> None:
        nonlocal running, most
        async with pace.turn(time.monotonic() + 20):
            running += 1
            most = max(most, running) if number < 3 else most
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            running -= 1
            order.append(number)
            if number == 2:
                pace.speed_up()

    await asyncio.gather(*(call(number) for number in range(6)))
    assert most == 1
    assert order[:3] == [0, 1, 2]
    async with pace.turn(0), pace.turn(0):
        pass


async def test_who_would_wait_too_long_is_told_at_once() -> None:
    pace = Pace()
    pace.slow_down(50)
    with pytest.raises(ModelRateLimited) as raised:
        async with pace.turn(time.monotonic() + 5):
            pass
    assert 40 < (raised.value.retry_after_seconds or 0) <= 50


async def test_a_turn_that_does_not_come_in_time() -> None:
    pace = Pace()
    pace.slow_down(0)
    async with pace.turn(time.monotonic() + 5):
        with pytest.raises(ModelRateLimited):
            async with pace.turn(time.monotonic() + 0.01):
                pass
    async with pace.turn(time.monotonic() + 5):
        pass


async def test_a_turn_is_given_back_when_its_call_fails_or_is_cancelled() -> None:
    pace = Pace()
    pace.slow_down(0)
    with pytest.raises(ValueError, match="no"):
        async with pace.turn(time.monotonic() + 5):
            raise ValueError("no")
    pace.slow_down(30)

    async def call() -> None:
        async with pace.turn(time.monotonic() + 100):
            pass

    waiting = asyncio.create_task(call())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    pace.speed_up()
    pace.slow_down(0)
    async with pace.turn(time.monotonic() + 5):
        pass


async def test_a_provider_is_not_left_alone_for_ever() -> None:
    pace = Pace()
    pace.slow_down(86_400)
    with pytest.raises(ModelRateLimited) as raised:
        async with pace.turn(time.monotonic()):
            pass
    assert (raised.value.retry_after_seconds or 0) <= 60
