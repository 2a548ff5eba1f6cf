"""Clients that never try again: every request that they begin to send is answered completely, or it is lost."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

ANSWER_WITHIN_SECONDS = 180
PHASE_SECONDS = 200
# Between requests, so that connections are idle in all phases of a worker's life; shorter than a server lingers.
PAUSES_SECONDS = (0.0, 0.0, 0.0, 0.02, 0.1, 0.5)


@dataclass(slots=True)
class Ledger:
    """What the clients have seen; `lost` says how a request ended that got no answer."""

    request_ids: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    refused: int = 0

    @property
    def answers(self) -> int:
        return sum(self.statuses.values())


@dataclass(slots=True)
class Clients:
    """Clients that ask until `stop_when_refused` is set and no server listens any more."""

    ledger: Ledger
    tasks: list["asyncio.Task[None]"]
    stop_when_refused: asyncio.Event

    async def answers(self, more: int) -> None:
        """Wait for `more` answers."""
        goal = self.ledger.answers + more
        async with asyncio.timeout(PHASE_SECONDS):
            while self.ledger.answers < goal:
                assert not self.ledger.lost, self.ledger.lost
                await asyncio.sleep(0.02)

    async def finished(self) -> None:
        """Wait until every client was refused."""
        async with asyncio.timeout(PHASE_SECONDS):
            await asyncio.gather(*self.tasks)


@contextlib.asynccontextmanager
async def asking(port: int, path: str, body: dict[str, Any], *, clients: int) -> AsyncIterator[Clients]:
    """Let some clients post `body` over and over, each on a connection that it keeps as long as it may."""
    ledger, stop = Ledger(), asyncio.Event()
    data = json.dumps(body).encode()
    headers = f"Host: test\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    request = f"POST {path} HTTP/1.1\r\n{headers}".encode() + data
    tasks = [asyncio.create_task(_ask(port, request, ledger, stop, Random(number))) for number in range(clients)]
    try:
        yield Clients(ledger, tasks, stop)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(port: int, request: bytes, ledger: Ledger, stop: asyncio.Event, random: Random) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            ledger.refused += 1
            if stop.is_set():
                return
            await asyncio.sleep(0.05)
            continue
        try:
            # A connection that the server has closed is not used again: nothing was sent on it.
            while not reader.at_eof() and not writer.is_closing():
                writer.write(request)
                if not await _read_answer(reader, ledger):
                    break
                await asyncio.sleep(random.choice(PAUSES_SECONDS))
        finally:
            writer.close()


async def _read_answer(reader: asyncio.StreamReader, ledger: Ledger) -> bool:
    """Read one answer and note it; return whether the connection may be used again."""
    received = b""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
            received = await reader.readuntil(b"\r\n\r\n")
            status, *lines = received.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            received += await reader.readexactly(int(headers["content-length"]))
    except (OSError, EOFError) as error:
        ledger.lost.append(f"{type(error).__name__} after {received!r}")
        return False
    code = int(status.split()[1])
    ledger.statuses[code] = ledger.statuses.get(code, 0) + 1
    if code == 200:
        ledger.request_ids.append(headers["x-request-id"])
    return headers.get("connection") != "close"
