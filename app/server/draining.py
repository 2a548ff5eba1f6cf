"""A server that shuts down without losing a request: a client about to send is answered, then told to go elsewhere.

uvicorn closes connections at once that have no request on them. A request that is under way on one of them, between
client and server, is then lost, and a POST is not repeated by most clients and proxies. Here such a connection stays:
its next request is answered with "Connection: close", and an idle one is closed a little later.

Nor does it wait long for a client that has stopped to read: closing such a connection would take until it reads on.
"""

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from uvicorn import Config, Server

from app.runtime.background import spawn
from app.server.limits import STOOD_STILL_SECONDS, LimitedProtocol
from app.server.shutdown import announce_shutdown
from app.server.waiting_line import LineState, QueueingProtocol

# How long an idle connection is listened to after the server has decided to shut down; longer than a request travels.
LINGER_SECONDS = 3.0
# How much longer for one on which half a request has arrived.
HALF_REQUEST_SECONDS = 7.0
HEARTBEAT_SECONDS = 1.0
# A client that has taken nothing for so long of what waits for it is cut off: nginx's default for send_timeout.
UNREAD_SECONDS = 60.0
# The same while the server shuts down: far below the time that answers are waited for.
UNREAD_LEAVING_SECONDS = 10.0
# Between two looks at what clients do not read, and do not send.
CHECK_SECONDS = 2.0
# Connections in each turn of the event loop. libuv 1.52 itself accepts one: of 3200 that came at once, the last waited
# for 3200 turns, which are seconds where those that are in already keep each turn busy.
ACCEPTED_AT_ONCE = 64
# Clients send a token and nothing else. Compressing our short messages would cost 40 KB for each connection.
WEBSOCKET_OPTIONS: dict[str, Any] = {"ws_max_size": 64 * 1024, "ws_per_message_deflate": False}


class DrainingState(LineState):
    """What the connections of one server share.

    `closes_after_answer`: no connection is kept for another request. `is_shutting_down`: idle ones are closed, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.closes_after_answer = False
        self.is_shutting_down = False
        # To be called for each connection: more may wait behind it.
        self.on_connection: Callable[[], None] = lambda: None


class DrainingProtocol(QueueingProtocol):
    """HTTP/1.1 within limits and in turns, on a connection that is never closed while a request may be on its way."""

    server_state: DrainingState
    _has_begun = False
    """The first bytes of a request are here, its headers not yet."""
    _closing: asyncio.TimerHandle | None = None
    _is_patient_no_more = False

    @property
    def is_streaming(self) -> bool:
        """Whether an answer of unknown length is under way: it may last for hours, and nothing comes after it."""
        return self.cycle is not None and bool(self.cycle.chunked_encoding) and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Accept a connection, also one that was still in the queue when the server began to shut down."""
        super().connection_made(transport)
        self.server_state.on_connection()
        if self.server_state.is_shutting_down:
            self._close_when_unused()

    def on_message_begin(self) -> None:
        """See the first byte of a request."""
        self._has_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start to answer a request."""
        super().on_headers_complete()
        self._has_begun = False
        if self.server_state.closes_after_answer:
            self.retire()

    def on_response_complete(self) -> None:
        """Wait for the next request where the last answer could not say any more that none is taken."""
        super().on_response_complete()
        if self.server_state.is_shutting_down and not self.transport.is_closing():
            self._close_when_unused()

    def retire(self) -> None:
        """Say "Connection: close" in the answer that is being made, unless there is none or its head has been sent."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Answer what is here or arrives soon; then close."""
        self.retire()
        self._close_when_unused()

    def _close_when_unused(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._closing = self.loop.call_later(LINGER_SECONDS, self._close_if_unused)

    def _close_if_unused(self) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        if not is_idle or self.transport.is_closing():
            return
        # Both asyncio and uvloop read what has arrived before they look at their timers.
        if self._has_begun and not self._is_patient_no_more:
            # Half a request: its client has a little longer, but does not hold up the server.
            self._is_patient_no_more = True
            self._closing = self.loop.call_later(HALF_REQUEST_SECONDS, self._close_if_unused)
            return
        self.transport.close()


class DrainingServer(Server):
    """uvicorn's server with connections as above; its configuration has `http=DrainingProtocol`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.server_state: DrainingState = DrainingState()
        # After the last request of `limit_max_requests`: asked until it says yes.
        self.may_leave: Callable[[], bool] = lambda: True
        self._is_worn_out = False
        self._to_be_told: set[DrainingProtocol] | None = None
        self._shuts_down_at = 0.0
        # What waits in a connection for its client, in bytes, and since when it has not become less.
        self._unread: dict[object, tuple[int, float]] = {}
        self._check: asyncio.Task[None] | None = None
        self._listeners: list[socket.socket] = []
        self._accepts_soon = False
        self._connecting: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the application, which may first have to sum up a long log, however long that takes."""
        async with self._heartbeat():
            await super().startup(sockets)
        self._listeners = [
            socket.socket(fileno=os.dup(each.fileno())) for server in self.servers for each in server.sockets
        ]
        for listener in self._listeners:
            listener.setblocking(False)
        self.server_state.on_connection = self._accept_soon
        self._check = asyncio.create_task(self._check_connections_regularly())

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to shut down.

        After the last request of `limit_max_requests` there is no hurry. The server goes on as ever until it
        `may_leave`, then closes connections after each answer, until those that were open have ended, at the latest by
        the keep-alive timeout. WebSockets and streams are not waited for: they end when the server shuts down, and
        their clients connect again.
        """
        if await super().on_tick(counter):
            if self.should_exit:
                return True
            self.limit_max_requests = None
            self._is_worn_out = True
        if self._is_worn_out and self.may_leave():
            self._is_worn_out = False
            self._shuts_down_at = asyncio.get_running_loop().time() + self.config.timeout_keep_alive + 1
            self._close_after_answers()
            self._to_be_told = {each for each in self.server_state.connections if isinstance(each, DrainingProtocol)}
        if self._to_be_told is None:
            return False
        self._to_be_told = {each for each in self._to_be_told if each in self.server_state.connections}
        is_over = asyncio.get_running_loop().time() > self._shuts_down_at
        return is_over or all(each.is_streaming for each in self._to_be_told)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer everything that has come so far, then end the application."""
        async with self._heartbeat():
            self.server_state.is_shutting_down = True
            announce_shutdown()
            self._close_after_answers()
            for connection in self._stop_listening():
                await self._serve_connection(connection)
            await super().shutdown(sockets)
        if self._check is not None:
            self._check.cancel()

    async def _check_connections_regularly(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + CHECK_SECONDS
            await asyncio.sleep(CHECK_SECONDS)
            now = loop.time()
            late = now - due
            if late <= STOOD_STILL_SECONDS:
                self._cut_off_who_does_not_read()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedProtocol):
                    if late > STOOD_STILL_SECONDS:
                        connection.forgive(late)
                    connection.check_progress(now)

    def _cut_off_who_does_not_read(self) -> None:
        now = asyncio.get_running_loop().time()
        limit_seconds = UNREAD_LEAVING_SECONDS if self.server_state.is_shutting_down else UNREAD_SECONDS
        before, self._unread = self._unread, {}
        for connection in list(self.server_state.connections):
            unread = connection.transport.get_write_buffer_size()
            if not unread:
                continue
            earlier, since = before.get(connection, (unread, now))
            if unread < earlier:
                since = now
            self._unread[connection] = unread, since
            if now - since >= limit_seconds:
                connection.transport.abort()

    def _close_after_answers(self) -> None:
        self.server_state.closes_after_answer = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, DrainingProtocol):
                connection.retire()

    def _accept_soon(self) -> None:
        if not self._accepts_soon:
            self._accepts_soon = True
            asyncio.get_running_loop().call_soon(self._accept_more)

    def _accept_more(self) -> None:
        self._accepts_soon = False
        for connection in self._accepted(ACCEPTED_AT_ONCE):
            task = spawn(self._serve_connection(connection), name="connection")
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def _accepted(self, limit: float) -> Iterator[socket.socket]:
        """Give connections that the kernel has let in already, `limit` of each listener at the most."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                number = 0
                while number < limit:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    yield connection
                    number += 1

    def _stop_listening(self) -> list[socket.socket]:
        """Close the listeners and return the connections that were waiting to be accepted.

        The kernel has let these clients in already, and would reset them with the last process that listens.
        """
        for server in self.servers:
            server.close()
        waiting = list(self._accepted(math.inf))
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        return waiting

    async def _serve_connection(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._protocol, connection, ssl=self.config.ssl)

    def _protocol(self) -> DrainingProtocol:
        return DrainingProtocol(self.config, self.server_state, self.lifespan.state)

    @contextlib.asynccontextmanager
    async def _heartbeat(self) -> AsyncIterator[None]:
        """Tell gunicorn's master that this worker lives: it would abort one that starts or shuts down slowly."""

        async def beat() -> None:
            while self.config.callback_notify is not None:
                await self.config.callback_notify()
                await asyncio.sleep(HEARTBEAT_SECONDS)

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
