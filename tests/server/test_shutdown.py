"""How a single server leaves: which connections it answers, tells, waits for and closes."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from app.config.settings import PROJECT_ROOT
from app.server import draining
from app.server.draining import WEBSOCKET_OPTIONS, DrainingProtocol, DrainingServer
from tests.servers.processes import answers_http, free_port, start_process
from tests.support.server_application import app

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
DEADLINE_SECONDS = 120


class Server(DrainingServer):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Ctrl-C belongs to pytest.
        yield


@dataclass(frozen=True, slots=True)
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes = REQUEST) -> bytes:
        """Send a request and return its answer, in lower case."""
        self.writer.write(request)
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            body = await self.reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
        assert head.startswith(b"http/1.1 200")
        return head + body.lower()

    async def is_closed(self) -> bool:
        """Wait until the server closes the connection; return whether it said nothing more."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.reader.read() == b""


class Clients:
    """Connections to one port, closed at the end."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._open: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._open.append(client)
        return client

    async def close(self) -> None:
        for client in self._open:
            client.writer.close()
            await client.writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(
    application: ASGIApp = app, **options: Any
) -> AsyncIterator[tuple[DrainingServer, Clients, "asyncio.Task[None]"]]:
    """A server, its clients, and its task, which ends when it has left."""
    defaults: dict[str, Any] = {"http": DrainingProtocol, "lifespan": "off", "log_config": None}
    config = uvicorn.Config(application, **defaults | options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server, clients = Server(config), Clients(listener.getsockname()[1])
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started or task.done())
        try:
            yield server, clients, task
        finally:
            server.should_exit = True
            await clients.close()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await task


async def leaving(server: DrainingServer) -> None:
    """Tell a server to leave, and wait until it does."""
    server.should_exit = True
    await until(lambda: server.server_state.is_shutting_down)


async def test_an_idle_connection_gets_one_more_answer() -> None:
    async with serving() as (server, clients, _):
        used, fresh = await clients.connect(), await clients.connect()
        assert b"connection: close" not in await used.ask()
        await leaving(server)
        for client in (used, fresh):
            assert b"connection: close" in await client.ask()
            assert await client.is_closed()


async def test_nobody_is_waited_for_who_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "LINGER_SECONDS", 0.05)
    async with serving() as (server, clients, _):
        used, fresh = await clients.connect(), await clients.connect()
        await used.ask()
        await leaving(server)
        assert await used.is_closed()
        assert await fresh.is_closed()


async def test_a_request_that_has_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(draining, "HEARTBEAT_SECONDS", 0.01)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        beats += 1

    async with serving(callback_notify=beat) as (server, clients, _):
        client = await clients.connect()
        await client.ask()
        client.writer.write(REQUEST[:9])
        await leaving(server)
        before = beats
        await asyncio.sleep(0.3)
        assert b"connection: close" in await client.ask(REQUEST[9:])
        # gunicorn's master hears of the worker all the while.
        assert beats > before + 1


async def test_a_slow_start_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "HEARTBEAT_SECONDS", 0.01)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        beats += 1

    async def starts_slowly(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        await until(lambda: beats > 3)
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})

    config = uvicorn.Config(starts_slowly, http=DrainingProtocol, lifespan="on", log_config=None, callback_notify=beat)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started or task.done())
        assert server.started
        server.should_exit = True
        await task


async def test_who_waits_to_be_accepted_is_answered() -> None:
    async with serving() as (server, clients, _):
        # Without giving the server a turn: the kernel alone has let this client in.
        with socket.create_connection(("127.0.0.1", clients.port)) as connection:
            connection.sendall(REQUEST)
            server.should_exit = True
            await server.shutdown()
            connection.setblocking(False)
            received = await asyncio.get_running_loop().sock_recv(connection, 4096)
    assert received.lower().startswith(b"http/1.1 200")
    assert b"connection: close" in received.lower()


def test_connections_that_come_at_once_are_accepted_within_few_turns() -> None:
    async def count_turns() -> int:
        turns = 0
        async with serving() as (server, clients, _):
            waiting = [socket.create_connection(("127.0.0.1", clients.port)) for _ in range(300)]

            def turn() -> None:
                nonlocal turns
                if len(server.server_state.connections) < len(waiting):
                    turns += 1
                    asyncio.get_running_loop().call_soon(turn)

            turn()
            await until(lambda: len(server.server_state.connections) == len(waiting))
            for connection in waiting:
                connection.close()
            await until(lambda: not server.server_state.connections)
        return turns

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(count_turns()) < 100


async def test_after_its_last_request_a_server_stays_until_everybody_knows() -> None:
    async with serving(limit_max_requests=2, timeout_keep_alive=DEADLINE_SECONDS) as (server, clients, task):
        idle, busy = await clients.connect(), await clients.connect()
        await idle.ask()
        await busy.ask()
        await until(lambda: server.server_state.closes_after_answer)
        assert b"connection: close" in await busy.ask()
        # One client has not been told yet: the port is still open.
        for _ in range(3):
            assert b"connection: close" in await (await clients.connect()).ask()
        assert not server.server_state.is_shutting_down
        assert b"connection: close" in await idle.ask()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await task


async def test_after_its_last_request_a_server_waits_for_the_keep_alive_timeout() -> None:
    async with serving(limit_max_requests=1, timeout_keep_alive=1) as (server, clients, task):
        client = await clients.connect()
        await client.ask()
        assert await client.is_closed()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await task
        assert not server.should_exit


async def sends_for_ever(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer /endless with a stream that only the client's leaving ends, /silent with one that says nothing more."""
    if scope["path"] not in {"/endless", "/silent"}:
        await app(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    if scope["path"] == "/endless":
        # Longer than what the buffers on the way hold; it comes to an end only when the connection does.
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        continue


async def open_stream(clients: Clients, path: str) -> Client:
    client = await clients.connect()
    client.writer.write(REQUEST.replace(b"/ ", path.encode() + b" ", 1))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await client.reader.readuntil(b"first")
    return client


async def test_after_its_last_request_a_server_does_not_wait_for_streams() -> None:
    async with serving(sends_for_ever, limit_max_requests=2, timeout_keep_alive=3600) as (server, clients, _):
        stream, client = await open_stream(clients, "/silent"), await clients.connect()
        await client.ask()
        assert not server.server_state.closes_after_answer
        assert b"connection: close" not in await client.ask()
        await until(lambda: server.server_state.closes_after_answer)
        # Of those who were there, one has still to be told.
        await asyncio.sleep(0.3)
        assert not server.server_state.is_shutting_down
        assert b"connection: close" in await client.ask()
        await until(lambda: server.server_state.is_shutting_down)
        stream.writer.close()


@pytest.mark.parametrize("is_leaving", [False, True])
async def test_who_stops_reading_is_cut_off(monkeypatch: pytest.MonkeyPatch, *, is_leaving: bool) -> None:
    monkeypatch.setattr(draining, "CHECK_SECONDS", 0.02)
    async with serving(sends_for_ever) as (server, clients, task):
        idle, stuck = await open_stream(clients, "/silent"), await open_stream(clients, "/endless")
        # asyncio's reader goes on until it has enough, and the kernel has buffers of megabytes.
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it reads as well
        await until(lambda: any(unread > 60_000 for unread, _ in server._unread.values()))
        await asyncio.sleep(0.3)
        assert len(server.server_state.connections) == 2
        if is_leaving:
            monkeypatch.setattr(draining, "UNREAD_LEAVING_SECONDS", 0.2)
            await leaving(server)
        else:
            monkeypatch.setattr(draining, "UNREAD_SECONDS", 0.2)
        await until(lambda: len(server.server_state.connections) == 1)
        assert not task.done()
        idle.writer.close()
        await until(lambda: not server._unread)


async def accepts(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept a WebSocket, and wait for its end."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        continue


async def test_a_socket_that_answers_no_ping_is_closed() -> None:
    options = {**WEBSOCKET_OPTIONS, "ws_ping_timeout": 0.1}
    assert uvicorn.Config(accepts, **WEBSOCKET_OPTIONS).ws_ping_interval
    async with serving(accepts, **options, ws_ping_interval=0.1) as (server, clients, _):
        client = await clients.connect()
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        client.writer.write(REQUEST[:-2] + upgrade + b"Sec-WebSocket-Key: MTExMTExMTExMTExMTExMQ==\r\n\r\n")
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
            # A ping, then a farewell (RFC 6455, section 5.2).
            frames = await client.reader.read()
        assert frames[:2] == b"\x89\x04"
        assert b"\x88" in frames
        await until(lambda: not server.server_state.connections)


async def test_a_slow_reader_is_none_who_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(draining, "UNREAD_SECONDS", 1.0)
    async with serving(sends_for_ever) as (_, clients, _):
        slow = await open_stream(clients, "/endless")
        for _ in range(20):
            await slow.reader.readexactly(4_000_000)
            await asyncio.sleep(0.1)


async def test_gunicorn_serves_on_uvloop_and_httptools() -> None:
    port = free_port()
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    with start_process(
        [gunicorn, "-c", "gunicorn_config.py", "-w", "1", "tests.support.server_application:app"],
        ready=lambda: answers_http(port),
        env={"PATH": os.environ["PATH"], "APP_HOST": "127.0.0.1", "APP_PORT": str(port)},
        cwd=PROJECT_ROOT,
    ):
        clients = Clients(port)
        assert (await (await clients.connect()).ask()).endswith(b"uvloop.loop httptools")
        await clients.close()
