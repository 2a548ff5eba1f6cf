"""How a long answer runs: sending goes on beside listening to the client, until either ends or the stream does."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Send

from app.services.events.listener import Listener

T = TypeVar("T")

EVENT_STREAM = "text/event-stream"
# A proxy would hold back what is to be seen at once; the latter is nginx's.
EVENT_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
# Below the idle limits of proxies, of which 30 s is a short one.
PING_SECONDS = 15.0
COMMENT = ": ping\n\n"
# For the last word to a client that may not be reading.
FAREWELL_SECONDS = 1.0


def hello(listener: Listener) -> str:
    """The first message: everything after `last_id` will follow."""
    return json.dumps({"event": "hello", "last_id": listener.since}, separators=(",", ":"))


async def push(ended: asyncio.Future[T], *work: Coroutine[Any, Any, None]) -> T | None:
    """Run `work` until one of it is done or fails, or `ended` is; return the result of the latter, if there is one.

    Raises:
        Exception: what the work raised.
    """
    tasks: list[asyncio.Task[None]] = [asyncio.create_task(each) for each in work]
    ends: list[asyncio.Future[Any]] = [*tasks, ended]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    if ended.done():
        return ended.result()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return None


async def send_text(send: Send, text: str) -> None:
    """Send a piece of a stream's body."""
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def ping(send: Send, text: str = COMMENT) -> None:
    """Send `text` every `PING_SECONDS`, without end: it keeps the connection of a stream of events open."""
    while True:
        await asyncio.sleep(PING_SECONDS)
        await send_text(send, text)


async def until_disconnect(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        continue
