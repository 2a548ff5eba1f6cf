"""Whose turn it is to decode: it goes round, no line is without end, and who comes new does not wait for one client."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from app.runtime import fair_queue as module
from app.runtime.fair_queue import QueueFullError, fair_queue

DEADLINE_SECONDS = 180


class Work:
    """Work that runs until it may end; notes in which order it began."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.others: list[int] = []
        self._may_end = threading.Semaphore(0)

    def of(self, name: str) -> Callable[[int], str]:
        def run(others: int) -> str:
            self.begun.append(name)
            self.others.append(others)
            assert self._may_end.acquire(timeout=DEADLINE_SECONDS)
            return name

        return run

    def end(self, count: int = 1) -> None:
        self._may_end.release(count)

    async def began(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.begun) < count:  # noqa: ASYNC110 - threads, which know no event of the loop
                await asyncio.sleep(0.005)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_new_client_does_not_wait_for_the_line_or_the_work_of_one_other(threads: int) -> None:
    work = Work()
    with fair_queue(threads, name="test") as queue:
        greedy = [asyncio.create_task(queue.run("greedy", work.of("greedy"))) for _ in range(60)]
        await work.began(threads)
        other = asyncio.create_task(queue.run("other", work.of("other")))
        await work.began(threads + 1)
        assert work.begun == ["greedy"] * threads + ["other"]
        # There is only one thread more, and not for the one that has all others.
        third = asyncio.create_task(queue.run("third", work.of("third")))
        await settled()
        assert len(work.begun) == threads + 1
        work.end(62)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await other == "other"
            assert await third == "third"
            await asyncio.gather(*greedy)
    # The one with many steps back behind others.
    assert work.others[:threads] == list(range(threads))
    assert max(work.others) == 59


async def test_turns_go_round() -> None:
    work = Work()
    with fair_queue(1, name="test") as queue:
        first = asyncio.create_task(queue.run("x", work.of("x")))
        second = asyncio.create_task(queue.run("y", work.of("y")))
        await work.began(2)
        tasks = [
            asyncio.create_task(queue.run(name[0], work.of(name))) for name in ("a1", "a2", "a3", "b1", "c1", "b2")
        ]
        await settled()
        for count in range(3, 9):
            work.end()
            if count == 3:
                # One of both is the thread more.
                work.end()
            await work.began(count)
        work.end(2)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(first, second, *tasks)
    assert work.begun[2:5] == ["a1", "b1", "c1"]
    # Which of two threads ends first is chance, and the extra one is for a client that has none: "a" is one, too, when
    # a2 has ended before b1.
    assert work.begun[5:] in (["a2", "b2", "a3"], ["b2", "a2", "a3"], ["a2", "a3", "b2"])


async def test_the_longest_line_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 4)
    work = Work()
    with fair_queue(1, name="test") as queue:
        running = [asyncio.create_task(queue.run(name, work.of(name))) for name in ("x", "y")]
        await work.began(2)
        greedy = [asyncio.create_task(queue.run("greedy", work.of("greedy"))) for _ in range(4)]
        await settled()
        with pytest.raises(QueueFullError):
            await queue.run("greedy", work.of("greedy"))
        other = asyncio.create_task(queue.run("other", work.of("other")))
        await settled()
        # The last in the longest line had to go.
        with pytest.raises(QueueFullError):
            await greedy[-1]
        work.end(6)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(other, *greedy[:-1], *running)


async def test_no_work_waits_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAIT_SECONDS", 0.05)
    work = Work()
    with fair_queue(1, name="test") as queue:
        running = asyncio.create_task(queue.run("greedy", work.of("greedy")))
        await work.began(1)
        with pytest.raises(QueueFullError):
            await queue.run("greedy", work.of("late"))
        work.end()
        await running
        # What gave up is in nobody's way.
        work.end()
        assert await queue.run("greedy", work.of("next")) == "next"
    assert work.begun == ["greedy", "next"]


async def test_a_caller_that_stops_to_wait_leaves_its_thread_taken() -> None:
    work = Work()
    with fair_queue(1, name="test") as queue:
        running = asyncio.create_task(queue.run("one", work.of("first")))
        await work.began(1)
        waiting = asyncio.create_task(queue.run("one", work.of("cancelled")))
        later = asyncio.create_task(queue.run("one", work.of("later")))
        await settled()
        running.cancel()
        waiting.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        await settled()
        assert work.begun == ["first"]
        work.end(2)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await later == "later"


async def test_what_work_raises_is_its_callers() -> None:
    def fail(_: int) -> None:
        raise ValueError("broken")

    with fair_queue(1, name="test") as queue:
        with pytest.raises(ValueError, match="broken"):
            await queue.run("one", fail)
        assert await queue.run("one", lambda others: others) == 0
