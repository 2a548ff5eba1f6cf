"""Quick requests wait for their turn before anything is done for them but to read them.

So many are at work at once; the next wait in a line that is bounded in length and in time. One that waits here is a
few kilobytes, and takes no more CPU than its parsing: it has no task, no timer and no frames of middleware yet.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from app.errors import AppError
from app.server.limits import LimitedProtocol

# Look-ups in each process: about as many share a commit.
AT_WORK = 256
# Of what waits for a place: eight seconds' worth where a process answers 500 a second.
MAX_WAITING = 4096
WAIT_SECONDS = 1.0
# Between two looks for those who have waited too long. Each look refuses AT_WORK at the most, so that the event loop
# soon comes back to other connections.
LOOK_SECONDS = 0.02
# Under this key of its lifespan's state the application says which paths are quick; of others, none waits.
QUICK_PATHS = "quick_paths"
# Under these keys of an ASGI scope's state: since when the request has waited (`time.perf_counter()`), and that its
# turn has not come, so that the application has to refuse it.
ARRIVED_AT = "arrived_at"
HAS_NO_TURN = "has_no_turn"

# Starts a request: with True in a place, which it gives back by `leave`; with False it is to be refused.
Start = Callable[[bool], None]


class WaitingLine:
    """At most AT_WORK are at work at once; at most MAX_WAITING wait, in their order, each for about WAIT_SECONDS."""

    def __init__(self) -> None:
        self._at_work = 0
        self._waiting: deque[tuple[float, Start]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, start: Start) -> None:
        """Call `start`, now or when there is a place, or it is known that there is none in time."""
        if self._at_work < AT_WORK and not self._waiting:
            self._at_work += 1
            start(True)
        elif len(self._waiting) >= MAX_WAITING:
            start(False)
        else:
            self._waiting.append((time.perf_counter(), start))
            self._look_later()

    def leave(self) -> None:
        """Give a place back: it is had by the first in the line."""
        self._at_work -= 1
        while self._waiting and self._at_work < AT_WORK:
            self._at_work += 1
            self._waiting.popleft()[1](True)

    def _look_later(self) -> None:
        if self._timer is None and self._waiting:
            seconds = self._waiting[0][0] + WAIT_SECONDS - time.perf_counter()
            self._timer = asyncio.get_running_loop().call_later(max(LOOK_SECONDS, seconds), self._refuse_late_ones)

    def _refuse_late_ones(self) -> None:
        self._timer = None
        late_since = time.perf_counter() - WAIT_SECONDS
        for _ in range(AT_WORK):
            if not self._waiting or self._waiting[0][0] > late_since:
                break
            self._waiting.popleft()[1](False)
        self._look_later()


class LineState(ServerState):
    """What the connections of one server share: the line of the quick requests of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.line = WaitingLine()


class QueueingProtocol(LimitedProtocol):
    """HTTP/1.1 within limits, whose quick requests take their turns.

    One that has not arrived as a whole stands in no line and holds no place: its client decides how long that takes.
    """

    server_state: LineState
    _incomplete: tuple[RequestResponseCycle, Any] | None = None
    """A quick request whose body is not all here, and what will answer it."""

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; one of a quick request that is too long for it is the application's to refuse."""
        super().on_body(body)
        if self._incomplete is not None and self.flow.read_paused:
            self._start_incomplete()

    def on_message_complete(self) -> None:
        """See the end of a request: a quick one takes its turn from here on."""
        super().on_message_complete()
        if self._incomplete is not None and not self._incomplete[0].more_body:
            (cycle, app), self._incomplete = self._incomplete, None
            self._enter(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Have the application note a client that has gone before its request was complete."""
        super().connection_lost(exc)
        self._start_incomplete()

    def refuse(self, error: AppError) -> None:
        """Answer `error` and close the connection; the application notes it."""
        super().refuse(error)
        self._start_incomplete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["path"] not in self.app_state.get(QUICK_PATHS, ()):
            super()._start_asgi_task(cycle, app)
        elif not cycle.more_body:
            # It has come behind another one on this connection.
            self._enter(cycle, app)
        else:
            self._incomplete = cycle, app
            if cycle.waiting_for_100_continue:
                cycle.waiting_for_100_continue = False
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _start_incomplete(self) -> None:
        if self._incomplete is not None:
            (cycle, app), self._incomplete = self._incomplete, None
            super()._start_asgi_task(cycle, app)

    def _enter(self, cycle: RequestResponseCycle, app: Any) -> None:
        state: dict[str, Any] = cycle.scope["state"]
        state[ARRIVED_AT] = time.perf_counter()
        self.server_state.line.enter(partial(self._start, cycle, app))

    def _start(self, cycle: RequestResponseCycle, app: Any, has_place: bool) -> None:
        if has_place:
            app = partial(self._answer_in_place, app)
        else:
            cycle.scope["state"][HAS_NO_TURN] = True
        super()._start_asgi_task(cycle, app)

    async def _answer_in_place(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        finally:
            self.server_state.line.leave()
