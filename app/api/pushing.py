"""How a long answer runs: sending goes on beside listening to the client, until either ends or the stream does."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from app.services.task_listener import Ending, Listener

# For the last word to a client that may not be reading.
FAREWELL_SECONDS = 1.0


def hello(listener: Listener) -> str:
    """The first message: everything after `last_id` will follow."""
    return json.dumps({"event": "hello", "last_id": listener.since}, separators=(",", ":"))


async def push(listener: Listener, *work: Coroutine[Any, Any, None]) -> Ending | None:
    """Run `work` until one of it is done or fails, or the listener ends; return why the listener has ended, if it has.

    Raises:
        Exception: what the work raised.
    """
    tasks: list[asyncio.Task[None]] = [asyncio.create_task(each) for each in work]
    ends: list[asyncio.Future[Any]] = [*tasks, listener.ended]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    if listener.ended.done():
        return listener.ended.result()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return None
