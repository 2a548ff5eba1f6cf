"""Places that several processes share: never too many, none left over, and none lost with a process that is killed."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from app.runtime import shared_semaphore
from app.runtime.shared_semaphore import SemaphoreFullError, SharedSemaphore

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_SECONDS = 180


async def obey(pipe: Connection, file: Path) -> None:
    """Take places, give them back and queue for them, as the pipe says."""
    loop = asyncio.get_running_loop()
    semaphore = SharedSemaphore(2, file)
    held: list[int] = []
    waiting: list[asyncio.Task[int]] = []
    pipe.send("ready")
    while (order := await loop.run_in_executor(None, pipe.recv)) != "end":
        if order == "take":
            held.append(await semaphore.acquire(PATIENCE_SECONDS))
        elif order == "give":
            semaphore.release(held.pop())
        elif order == "queue":
            waiting.append(asyncio.create_task(semaphore.acquire(PATIENCE_SECONDS)))
            await asyncio.sleep(0)
        elif order == "got":
            held.append(await waiting.pop(0))
        pipe.send(order)


def run_obey(pipe: Connection, file: Path) -> None:
    asyncio.run(obey(pipe, file))


class Other:
    """Another process with two places of its own."""

    def __init__(self, file: Path) -> None:
        self.pipe, end = SPAWN.Pipe()
        self.process = SPAWN.Process(target=run_obey, args=(end, file))
        self.process.start()
        assert self.pipe.poll(PATIENCE_SECONDS)
        assert self.pipe.recv() == "ready"

    def do(self, order: str) -> None:
        self.pipe.send(order)
        assert self.pipe.poll(PATIENCE_SECONDS), order
        assert self.pipe.recv() == order


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    process = Other(tmp_path / "slots")
    try:
        yield process
    finally:
        if process.process.is_alive():
            process.pipe.send("end")
        process.process.join(PATIENCE_SECONDS)


async def take_all(semaphore: SharedSemaphore) -> list[int]:
    places = []
    while True:
        try:
            places.append(await semaphore.acquire(0))
        except (TimeoutError, SemaphoreFullError):
            return places


async def test_a_process_may_have_all_places_that_the_others_do_not_use(tmp_path: Path, other: Other) -> None:
    semaphore = SharedSemaphore(2, tmp_path / "slots")
    assert sorted(await take_all(semaphore)) == [0, 1, 2, 3]
    semaphore.release(0)
    other.do("take")
    with pytest.raises((TimeoutError, SemaphoreFullError)):
        await semaphore.acquire(0.05)
    other.do("give")
    assert await semaphore.acquire(PATIENCE_SECONDS) == 0


async def test_the_places_of_a_killed_process_are_free_and_its_share_is_gone(tmp_path: Path, other: Other) -> None:
    semaphore = SharedSemaphore(2, tmp_path / "slots")
    for _ in range(3):
        other.do("take")
    assert len(await take_all(semaphore)) == 1
    waiting = asyncio.create_task(semaphore.acquire(PATIENCE_SECONDS))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert other.process.pid is not None
    os.kill(other.process.pid, signal.SIGKILL)
    other.process.join()
    await waiting
    # Of its own two, one was had already.
    assert await take_all(semaphore) == []


async def test_who_has_waited_longest_is_next_in_whichever_process(tmp_path: Path, other: Other) -> None:
    semaphore = SharedSemaphore(2, tmp_path / "slots")
    places = await take_all(semaphore)
    other.do("queue")
    later = asyncio.create_task(semaphore.acquire(PATIENCE_SECONDS))
    await asyncio.sleep(0.1)
    semaphore.release(places.pop())
    # It was freed here, and goes to the other process all the same.
    other.do("got")
    assert not later.done()
    semaphore.release(places.pop())
    await later


async def test_a_stopped_process_holds_up_no_other(
    tmp_path: Path, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_semaphore, "STALLED_SECONDS", 0.2)
    semaphore = SharedSemaphore(2, tmp_path / "slots")
    places = await take_all(semaphore)
    other.do("queue")
    assert other.process.pid is not None
    os.kill(other.process.pid, signal.SIGSTOP)
    try:
        later = asyncio.create_task(semaphore.acquire(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        semaphore.release(places.pop())
        await later
    finally:
        os.kill(other.process.pid, signal.SIGCONT)
    semaphore.release(places.pop())
    other.do("got")


async def test_a_wait_without_hope_is_not_begun() -> None:
    semaphore = SharedSemaphore(2)
    places = await take_all(semaphore)
    # Nothing is known yet of how long a use takes.
    waiting = [asyncio.create_task(semaphore.acquire(PATIENCE_SECONDS)) for _ in range(3)]
    await asyncio.sleep(0.1)
    for place in places:
        semaphore.release(place)
    places = [await waiting[0], await waiting[1]]
    assert semaphore._own.use_seconds >= 0.1
    waiting[2].cancel()
    semaphore._own = semaphore._own._replace(use_seconds=1000.0)
    waiting = [asyncio.create_task(semaphore.acquire(1500.0)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(SemaphoreFullError) as raised:
        # Both places have just been taken, by the first of those in front: theirs is the second use from now.
        await semaphore.acquire(1500.0)
    assert 1900 < raised.value.expected_seconds <= 2000
    for place in places:
        semaphore.release(place)
    for task in waiting:
        semaphore.release(await task)


async def test_who_waits_is_told_when_it_has_become_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_semaphore, "HOPE_SECONDS", 0.05)
    semaphore = SharedSemaphore(2)
    for place in await take_all(semaphore):
        semaphore._held[place] -= 100.0
    waiting = [asyncio.create_task(semaphore.acquire(150.0)) for _ in range(4)]
    await asyncio.sleep(0)
    # All uses that go on have taken 100 seconds: those who come now would have to wait for two more.
    with pytest.raises(SemaphoreFullError):
        await semaphore.acquire(150.0)
    for held in semaphore._held:
        semaphore._held[held] -= 60.0
    for hopeless in waiting[2:]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(SemaphoreFullError):
                await hopeless
    for task in waiting[:2]:
        assert not task.done()
        semaphore.release(0 if task is waiting[0] else 1)
        semaphore.release(await task)


async def test_a_use_that_hangs_says_nothing_of_the_others() -> None:
    semaphore = SharedSemaphore(3)
    places = await take_all(semaphore)
    semaphore._own = semaphore._own._replace(use_seconds=1.0)
    semaphore._held[places[0]] -= 1000.0
    waiting = [asyncio.create_task(semaphore.acquire(PATIENCE_SECONDS)) for _ in range(30)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_uses_of_other_processes_are_known(tmp_path: Path, other: Other) -> None:
    semaphore = SharedSemaphore(2, tmp_path / "slots")
    for _ in range(4):
        other.do("take")
    semaphore._own = semaphore._own._replace(use_seconds=1000.0)
    with pytest.raises(SemaphoreFullError) as raised:
        await semaphore.acquire(500.0)
    assert 900 < raised.value.expected_seconds <= 1000
    other.do("give")
    assert await semaphore.acquire(500.0) in range(4)


async def test_a_cancelled_wait_leaves_the_line() -> None:
    semaphore = SharedSemaphore(1)
    place = await semaphore.acquire(0)
    first, second = (asyncio.create_task(semaphore.acquire(PATIENCE_SECONDS)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    semaphore.release(place)
    await second
    assert first.cancelled()
