"""A small HTTP/1.1 server in a thread of its own, which can also break off a connection; for fakes of remote services.

A thread, so that it answers synchronous tests, asynchronous tests and other processes alike.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """A request; header names are lower case, `path` has no query string."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """A response. `sent_bytes` breaks the connection off: 0 before anything is sent, n after n bytes of the body.

    `on_sent` is called when all of it has been sent to a client that had not closed the connection by then.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    sent_bytes: int | None = None
    on_sent: Callable[[], None] | None = None

    def head(self) -> bytes:
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Unassigned"
        fields = {"content-type": "application/json", "content-length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {self.status} {reason}\r\n{lines}\r\n".encode("latin-1")


Handler = Callable[[HTTPRequest], Awaitable[HTTPResponse]]


@contextmanager
def running_http_server(handler: Handler, *, port: int = 0) -> Iterator[str]:
    """Serve `handler` on the loopback address and give its URL; everything ends with the block.

    Port 0 is any that is free.
    """
    server = _Server(handler, port)
    thread = threading.Thread(target=server.run, name="fake-http-server", daemon=True)
    thread.start()
    server.ready.wait()
    try:
        yield server.url
    finally:
        server.loop.call_soon_threadsafe(server.stopping.set)
        thread.join()


class _Server:
    def __init__(self, handler: Handler, port: int) -> None:
        self.handler = handler
        self.port = port
        self.ready = threading.Event()
        self.url = ""

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self.connections: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.ready.set()
        await self.stopping.wait()
        server.close()
        for connection in self.connections:
            connection.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self.loop.create_task(self._talk(reader, writer))
        self.connections.add(connection)
        connection.add_done_callback(self.connections.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                response = await self.handler(await _read_request(reader))
                if response.sent_bytes == 0 or reader.at_eof():
                    break
                writer.write(response.head() + response.body[: response.sent_bytes])
                await writer.drain()
                if response.sent_bytes is not None:
                    break
                if response.on_sent is not None:
                    response.on_sent()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has gone: nothing is left to be said to it
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> HTTPRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = request_line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return HTTPRequest(method, target.partition("?")[0], headers, body)
