"""What the loops, the shared calls and the outage lines of the whole service rely on."""

import asyncio
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from loguru import logger

from app.errors import DatabaseUnavailable
from app.runtime.background import OutageLog, SingleFlight, cancel, every, fail, running, spawn

DEADLINE_SECONDS = 120.0
request_id: ContextVar[str] = ContextVar("request_id", default="none")


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines that are logged during the test, with their tracebacks."""
    lines: list[str] = []
    number = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(number)


@pytest.fixture
def outage() -> OutageLog:
    return OutageLog("it fails", recovered="it works again", expected=(LookupError,))


def throw(error: Exception) -> None:
    raise error


# ----- outages


async def test_an_outage_is_two_lines_however_long_it_lasts(log: list[str], outage: OutageLog) -> None:
    outage.succeeded()
    for _ in range(3):
        outage.failed(OSError("the password is hunter2"))
    for _ in range(3):
        outage.succeeded()
    assert log == ["WARNING it fails (OSError)\n", "INFO it works again\n"]
    outage.failed(OSError())
    assert len(log) == 3


@pytest.mark.parametrize("error", [DatabaseUnavailable(), TimeoutError(), LookupError()])
async def test_an_expected_error_has_no_traceback(error: Exception, log: list[str], outage: OutageLog) -> None:
    with outage.guard():
        throw(error)
    assert log == [f"WARNING it fails ({type(error).__name__})\n"]


async def test_a_bug_has_a_traceback(log: list[str], outage: OutageLog) -> None:
    with outage.guard():
        throw(ZeroDivisionError())
    assert log[0].startswith("WARNING it fails (ZeroDivisionError)\nTraceback")


async def test_what_passes_is_neither_caught_nor_logged(log: list[str], outage: OutageLog) -> None:
    with pytest.raises(DatabaseUnavailable), outage.guard(passes=(DatabaseUnavailable,)):
        throw(DatabaseUnavailable())
    assert log == []


# ----- loops


async def test_a_loop_goes_on_after_any_failure(log: list[str], outage: OutageLog) -> None:
    rounds = 0
    third = asyncio.Event()

    async def action() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 3:
            raise ZeroDivisionError
        third.set()

    loop = every(0.001, action, outage=outage)
    async with running(loop, name="loop"), asyncio.timeout(DEADLINE_SECONDS):
        await third.wait()
        await asyncio.sleep(0)
    assert [line.splitlines()[0] for line in log] == ["WARNING it fails (ZeroDivisionError)", "INFO it works again"]


async def test_the_first_round_has_a_pause_of_its_own(outage: OutageLog) -> None:
    times: list[float] = []
    second = asyncio.Event()
    clock = asyncio.get_running_loop().time

    async def action() -> None:
        times.append(clock())
        if len(times) == 2:
            second.set()

    begun_at = clock()
    loop = every(0.2, action, outage=outage, first_after_seconds=0)
    async with running(loop, name="loop"), asyncio.timeout(DEADLINE_SECONDS):
        await second.wait()
    # uvloop's clock has milliseconds.
    assert times[1] - times[0] >= 0.19
    never = every(0.0, action, outage=outage, first_after_seconds=3600)
    async with running(never, name="loop"):
        await asyncio.sleep(0.01)
    assert len(times) == 2
    assert times[0] >= begun_at


async def test_a_loop_ends_although_its_clean_up_fails(log: list[str], outage: OutageLog) -> None:
    begun = asyncio.Event()

    async def action() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            raise ConnectionError

    task = spawn(every(0.0, action, outage=outage), name="loop")
    async with asyncio.timeout(DEADLINE_SECONDS):
        await begun.wait()
        await cancel(task)
    assert task.cancelled()
    assert log == []


async def test_a_task_of_the_service_has_no_request() -> None:
    request_id.set("some request")

    async def current() -> str:
        return request_id.get()

    assert await spawn(current(), name="task") == "none"


async def test_running_ends_with_its_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with running(work(), name="work"):
        await asyncio.sleep(0)
        assert not ended.is_set()
    assert ended.is_set()


async def test_failing_a_future_that_nothing_awaits_is_no_error() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    waiting, cancelled, forgotten = (asyncio.get_running_loop().create_future() for _ in range(3))
    cancelled.cancel()
    for future in (waiting, cancelled, forgotten):
        fail(future, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await waiting
    assert cancelled.cancelled()
    del future, forgotten
    await asyncio.sleep(0)
    assert reported == []


# ----- single flight


class Calls:
    """Counts calls, which end when they are let."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        self.request_ids: list[str] = []
        self._error = error

    async def call(self) -> int:
        self.begun += 1
        self.request_ids.append(request_id.get())
        await self.may_end.wait()
        if self._error is not None:
            raise self._error
        return self.begun


async def begin(flight: SingleFlight[str, int], calls: Calls, *keys: str) -> list[asyncio.Task[tuple[int, bool]]]:
    """Ask for each key, and return when all have asked."""
    tasks = [asyncio.create_task(flight.run(key, calls.call)) for key in keys]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_simultaneous_callers_share_a_call() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    calls = Calls()
    tasks = await begin(flight, calls, "a", "a", "a", "b")
    assert calls.begun == 2
    assert "a" in flight
    calls.may_end.set()
    results = await asyncio.gather(*tasks)
    assert [is_shared for _, is_shared in results] == [False, True, True, False]
    assert "a" not in flight
    # What has ended is not shared.
    assert await flight.run("a", calls.call) == (3, False)


async def test_a_caller_that_is_cancelled_cancels_no_call() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    calls = Calls()
    first, second = await begin(flight, calls, "a", "a")
    await cancel(first)
    assert first.cancelled()
    calls.may_end.set()
    assert await second == (1, True)


async def test_a_failure_reaches_every_caller_and_is_not_kept() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    calls = Calls(ZeroDivisionError())
    tasks = await begin(flight, calls, "a", "a")
    calls.may_end.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, ZeroDivisionError]
    assert calls.begun == 1
    with pytest.raises(ZeroDivisionError):
        await flight.run("a", calls.call)
    assert calls.begun == 2


async def test_a_failure_without_callers_is_no_error_of_the_loop() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    flight: SingleFlight[str, int] = SingleFlight()
    calls = Calls(ZeroDivisionError())
    tasks = await begin(flight, calls, "a")
    await cancel(*tasks)
    calls.may_end.set()
    await flight.wait()
    await asyncio.sleep(0)
    assert "a" not in flight
    assert reported == []


async def test_calls_are_waited_for_and_cancelled() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    calls = Calls()
    tasks = await begin(flight, calls, "a", "b")
    await cancel(*tasks)
    waiting = asyncio.create_task(flight.wait())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await flight.cancel()
    await waiting
    assert "a" not in flight


async def test_a_call_has_the_request_of_its_first_caller_unless_it_is_detached() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    calls = Calls()
    calls.may_end.set()
    request_id.set("some request")
    await flight.run("a", calls.call)
    await flight.run("a", calls.call, is_detached=True)
    assert calls.request_ids == ["some request", "none"]
