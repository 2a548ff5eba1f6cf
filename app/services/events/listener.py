"""One connection's share of the stream of task events: what it missed, then what happens, until something ends it.

A listener never makes others wait: what it does not fetch in time ends it, and it comes back with the last id it saw.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from app.clock import utc_now
from app.services.accounts.service import Session

# What one connection may be behind; about 300 KB, which all connections of one account share.
QUEUE_EVENTS = 1000
PAGE_EVENTS = 200


@dataclass(frozen=True, slots=True)
class TaskChange:
    """One event; `text` is its JSON, made once for all connections that get it."""

    id: int
    text: str


class Ending(Enum):
    """Why a stream ends before its client leaves."""

    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a reason
    TOKEN_INVALID = "invalid_token"  # noqa: S105 - a reason
    TOO_SLOW = "too_slow"
    SERVICE_ENDS = "service_ends"


def task_change(event_id: int, body: dict[str, Any]) -> TaskChange:
    """Return the event with `body`, which is what the task's status answers."""
    message = {"event": "task", "id": event_id} | body | {"id": event_id}
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate, which JSON can express, cannot be encoded.
    return TaskChange(event_id, text.encode("utf-8", "replace").decode())


class Listener:
    """Made by `TaskEvents.listen`.

    Args:
        session: whose events these are.
        since: the last id that the client knows.
        joined_at: events above it are offered, those up to it have to be read.
        not_yet: ids below `joined_at` that are offered as well, if they ever become visible.
        read_page: returns the account's events in (after, up to], at most PAGE_EVENTS of them.
    """

    def __init__(
        self,
        session: Session,
        *,
        since: int,
        joined_at: int,
        not_yet: Collection[int],
        read_page: Callable[[int, int, int], Awaitable[Sequence[TaskChange]]],
    ) -> None:
        self.user_id = session.account.id
        self.generation = session.generation
        self.expires_at: datetime = session.expires_at
        self.since = since
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._joined_at = joined_at
        self._not_yet = frozenset(not_yet)
        self._read_page = read_page
        self._queue: deque[TaskChange] = deque()
        self._arrived = asyncio.Event()
        seconds = max(0.0, (session.expires_at - utc_now()).total_seconds())
        self._timer = asyncio.get_running_loop().call_later(seconds, self.end, Ending.TOKEN_EXPIRED)

    def offer(self, event: TaskChange) -> None:
        """Take an event; one too many ends the listener."""
        if event.id <= self.since and event.id not in self._not_yet:
            return
        if len(self._queue) >= QUEUE_EVENTS:
            self.end(Ending.TOO_SLOW)
        else:
            self._queue.append(event)
            self._arrived.set()

    def end(self, ending: Ending) -> None:
        """Resolve `ended`, after which nothing is worth sending any more; the first reason counts."""
        if not self.ended.done():
            self.ended.set_result(ending)

    def close(self) -> None:
        """Forget everything."""
        self._timer.cancel()
        self._queue.clear()

    async def events(self) -> AsyncIterator[TaskChange]:
        """Yield every event after `since` once, without end.

        Raises:
            DatabaseUnavailable, ServerBusy: what was missed cannot be read now.
        """
        after = self.since
        while after < self._joined_at:
            page = await self._read_page(self.user_id, after, self._joined_at)
            for event in page:
                if event.id not in self._not_yet:
                    yield event
            after = page[-1].id if len(page) == PAGE_EVENTS else self._joined_at
        while True:
            while self._queue:
                yield self._queue.popleft()
            self._arrived.clear()
            await self._arrived.wait()
