"""A server that is away, as its callers see it: they are let go, refused, and let in again."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from app.runtime import availability as module
from app.runtime.availability import Availability
from app.runtime.background import OutageLog
from tests.servers.waiting import wait_until

DEADLINE_SECONDS = 120.0


class Server:
    """What the probe asks; `answers` is set while it does."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.probes = self.returns = 0

    async def probe(self) -> None:
        self.probes += 1
        await self.answers.wait()

    def note_return(self) -> None:
        self.returns += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUSPECT_AFTER_SECONDS", 0.02)
    monkeypatch.setattr(module, "AWAY_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(module, "PROBE_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(module, "PROBE_PAUSE_SECONDS", 0.01)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def availability(server: Server) -> Iterator[Availability]:
    outage = OutageLog("away", recovered="back")
    availability = Availability(server.probe, outage=outage, on_return=server.note_return)
    yield availability
    availability.close()


def deadline(seconds: float = DEADLINE_SECONDS) -> float:
    return asyncio.get_running_loop().time() + seconds


async def call(availability: Availability, answer: asyncio.Event) -> None:
    async with availability.call(deadline()):
        await answer.wait()


async def until(availability: Availability, *, is_away: bool) -> None:
    await asyncio.to_thread(wait_until, lambda: availability.is_away == is_away, "a change")


async def test_calls_are_let_go_when_the_server_is_away(server: Server, availability: Availability) -> None:
    server.answers.clear()
    never = asyncio.Event()
    ends = await asyncio.gather(*(call(availability, never) for _ in range(20)), return_exceptions=True)
    assert {type(end) for end in ends} == {TimeoutError}
    assert availability.is_away
    # One that began in the same moment may still get its answer, which means that the server is there.
    server.answers.set()
    await until(availability, is_away=False)
    assert server.returns == 1


async def test_one_slow_call_is_no_outage(server: Server, availability: Availability) -> None:
    answer = asyncio.Event()
    slow = asyncio.create_task(call(availability, answer))
    await asyncio.to_thread(wait_until, lambda: server.probes > 0, "a probe")
    await asyncio.sleep(3 * module.AWAY_AFTER_SECONDS)
    assert not availability.is_away
    assert not slow.done()
    answer.set()
    await slow


async def test_a_deadline_is_no_outage(availability: Availability) -> None:
    with pytest.raises(TimeoutError):
        async with availability.call(deadline(0.01)):
            await asyncio.Event().wait()
    assert not availability.is_away


async def test_a_probe_that_fails_while_calls_are_answered_proves_nothing() -> None:
    """As when the server has no more connections, or this machine is too busy to open one in time."""
    probes = 0
    were_away: list[bool] = []
    at_once = asyncio.Event()
    at_once.set()

    async def probe() -> None:
        nonlocal probes
        probes += 1
        were_away.append(busy.is_away)
        if probes < 20:
            await call(busy, at_once)
        raise ConnectionRefusedError

    busy = Availability(probe, outage=OutageLog("away", recovered="back"), on_return=lambda: None)
    busy.suspect()
    await until(busy, is_away=True)
    busy.close()
    assert were_away[:20] == [False] * 20


async def test_a_probe_of_a_process_that_stood_still_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_PAUSE_SECONDS", DEADLINE_SECONDS)
    ended = asyncio.Event()

    async def probe() -> None:
        time.sleep(module.PROBE_TIMEOUT_SECONDS + 1.1 * module.MAX_LATE_SECONDS)  # noqa: ASYNC251 - as SIGSTOP
        ended.set()
        raise ConnectionResetError

    frozen = Availability(probe, outage=OutageLog("away", recovered="back"), on_return=lambda: None)
    frozen.suspect()
    await ended.wait()
    # By the event loop's next round it has been judged.
    await asyncio.sleep(0)
    assert not frozen.is_away
    frozen.close()


async def test_no_second_probe_beside_or_right_after_another(
    server: Server, availability: Availability, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_PAUSE_SECONDS", DEADLINE_SECONDS)
    for _ in range(20):
        availability.suspect()
    await asyncio.sleep(0.005)
    availability.suspect()
    assert server.probes == 1


async def test_it_is_probed_no_longer_after_the_end(server: Server, availability: Availability) -> None:
    server.answers.clear()
    availability.suspect()
    await until(availability, is_away=True)
    availability.close()
    await asyncio.sleep(0)
    probes = server.probes
    await asyncio.sleep(5 * module.PROBE_PAUSE_SECONDS)
    assert server.probes == probes
