"""Quick requests take their turns; one that waits too long is told, and half a request is in no other one's way."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from app.server import draining, limits, waiting_line
from app.server.limits import ANSWERED_FOR
from app.server.waiting_line import ARRIVED_AT, HAS_NO_TURN, QUICK_PATHS
from tests.server.test_shutdown import DEADLINE_SECONDS, REQUEST, Client, serving, until
from tests.support.server_application import app

QUICK = b"POST /quick HTTP/1.1\r\nHost: test\r\n"


class Work:
    """An application that notes what it is given, and answers when it may."""

    def __init__(self) -> None:
        self.begun: list[Scope] = []
        self.at_work = 0
        self.goes_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.append(scope)
        if scope["path"] == "/quick" and HAS_NO_TURN not in scope["state"]:
            self.at_work += 1
            try:
                await self.goes_on.wait()
            finally:
                self.at_work -= 1
        await app(scope, receive, send)


@pytest.fixture
def one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_line, "AT_WORK", 1)
    monkeypatch.setattr(waiting_line, "WAIT_SECONDS", float(DEADLINE_SECONDS))


def quick(*lines: bytes, body: bytes = b"") -> bytes:
    return QUICK + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.usefixtures("one_place")
async def test_quick_requests_wait_in_their_order_and_others_do_not() -> None:
    work = Work()
    async with serving(work) as (server, clients, _):
        server.lifespan.state[QUICK_PATHS] = {"/quick"}
        answers = []
        for number in range(3):
            client = await clients.connect()
            answers.append(asyncio.create_task(client.ask(quick(b"X-Number: %d" % number, body=b"x"))))
            await until(lambda number=number: len(server.server_state.line._waiting) + work.at_work == number + 1)  # type: ignore[misc]
        await (await clients.connect()).ask()
        assert [scope["path"] for scope in work.begun] == ["/quick", "/"]
        work.goes_on.set()
        await asyncio.gather(*answers)
    numbers = [dict(scope["headers"]).get(b"x-number") for scope in work.begun]
    assert numbers == [b"0", None, b"1", b"2"]
    arrived = [scope["state"].get(ARRIVED_AT) for scope in work.begun if scope["path"] == "/quick"]
    assert arrived == sorted(arrived)
    assert server.server_state.line._at_work == 0


@pytest.mark.usefixtures("one_place")
@pytest.mark.parametrize(("name", "value"), [("MAX_WAITING", 0), ("WAIT_SECONDS", 0.05)])
async def test_who_has_no_turn_is_handed_over_to_be_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(waiting_line, name, value)
    work = Work()
    async with serving(work) as (server, clients, _):
        server.lifespan.state[QUICK_PATHS] = {"/quick"}
        first = asyncio.create_task((await clients.connect()).ask(quick()))
        await until(lambda: work.at_work == 1)
        for _ in range(3):
            # On a connection that stays.
            await (await clients.connect()).ask(quick())
            assert HAS_NO_TURN in work.begun[-1]["state"]
        work.goes_on.set()
        await first
        await (await clients.connect()).ask(quick())
        assert HAS_NO_TURN not in work.begun[-1]["state"]


@pytest.mark.usefixtures("one_place")
async def test_requests_in_pieces_or_behind_one_another_are_answered() -> None:
    work = Work()
    work.goes_on.set()
    async with serving(work) as (server, clients, _):
        server.lifespan.state[QUICK_PATHS] = {"/quick"}
        client = await clients.connect()
        client.writer.write(QUICK + b"Content-Length: 4\r\n\r\nbo")
        # Another one is not in the way of half a request, nor that of others.
        await (await clients.connect()).ask(quick(body=b"body"))
        await client.ask(b"dy")
        # More than is read before the application asks for it.
        await client.ask(quick(body=b"x" * 300_000))
        client.writer.write(QUICK + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert b" 100 " in await client.reader.readuntil(b"\r\n\r\n")
        await client.ask(b"body")
        client.writer.write(quick(body=b"body") + REQUEST + quick(body=b"body"))
        for _ in range(3):
            await client.ask(b"")
    assert server.server_state.line._at_work == 0


@pytest.mark.usefixtures("one_place")
async def test_half_a_request_holds_no_place_and_its_end_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(limits, "SILENCE_SECONDS", 0.2)
    work = Work()
    work.goes_on.set()
    async with serving(work) as (server, clients, _):
        server.lifespan.state[QUICK_PATHS] = {"/quick"}
        silent = await clients.connect()
        silent.writer.write(QUICK + b"Content-Length: 4\r\n\r\n")
        gone = await clients.connect()
        gone.writer.write(QUICK + b"Content-Length: 4\r\n\r\nbo")
        await until(lambda: len(server.server_state.connections) == 2)
        await (await clients.connect()).ask(quick())
        gone.writer.close()
        assert await status_of(silent) == 408
        await until(lambda: len(work.begun) == 3 and not work.at_work)
    assert sorted(scope["state"].get(ANSWERED_FOR, 0) for scope in work.begun) == [0, 0, 408]


async def status_of(client: Client) -> int:
    """Return the status of an answer after which the server closes the connection."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return int((await client.reader.read()).split()[1])
