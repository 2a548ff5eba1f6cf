"""A TCP proxy between the service and MySQL that makes the network slow, or cuts a connection in its very COMMIT.

Of each COMMIT that is cut the client sees the same: a lost connection. Every other one has not reached the server by
then, the others have been carried out, and only the answer is missing.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK_BYTES = 65536
COMMIT = b"COMMIT"
# One COMMIT of so many is cut: most transactions of a request find a way in the end.
CUT_ONE_OF = 12
# From a COMMIT that is let through until it has been carried out, with its fsync.
CARRIED_OUT_SECONDS = 0.5


class DatabaseProxy:
    """What the proxy does to connections; its fields may be changed while it runs.

    `delay_seconds` comes before each answer of the server. With `cuts_commits`, connections are cut; `cut` counts them.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.delay_seconds = 0.0
        self.cuts_commits = False
        self.cut = 0
        self._commits = 0
        self._server_port = server_port
        self._ready = threading.Event()

    def run(self) -> None:
        """Serve in this thread until `end`."""
        asyncio.run(self._serve())

    def await_ready(self) -> None:
        self._ready.wait()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ending.wait()
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._loop.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carry bytes both ways until one side closes."""
        to_server: asyncio.StreamWriter | None = None
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            is_cut = asyncio.Event()
            ways = [
                asyncio.create_task(self._carry_requests(client, to_server, is_cut)),
                asyncio.create_task(self._carry_answers(server, to_client, is_cut)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # there is no server: the client sees its connection closed
        finally:
            for writer in (to_client, to_server):
                if writer is not None:
                    writer.close()

    async def _carry_requests(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, is_cut: asyncio.Event
    ) -> None:
        end = b""
        with suppress(OSError):
            while chunk := await client.read(CHUNK_BYTES):
                end = (end + chunk)[-len(COMMIT) :]
                if end == COMMIT and self._is_to_be_cut():
                    is_cut.set()
                    if self.cut % 2:
                        to_server.write(chunk)
                        await to_server.drain()
                        await asyncio.sleep(CARRIED_OUT_SECONDS)
                    return
                to_server.write(chunk)
                await to_server.drain()

    async def _carry_answers(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, is_cut: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while chunk := await server.read(CHUNK_BYTES):
                if is_cut.is_set():
                    continue
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                to_client.write(chunk)
                await to_client.drain()

    def _is_to_be_cut(self) -> bool:
        if not self.cuts_commits:
            return False
        self._commits += 1
        if self._commits % CUT_ONE_OF:
            return False
        self.cut += 1
        return True


@contextmanager
def running_proxy(server_port: int) -> Iterator[DatabaseProxy]:
    """Run a proxy before the server at 127.0.0.1:`server_port` for the length of the block."""
    proxy = DatabaseProxy(server_port)
    thread = threading.Thread(target=proxy.run, name="database-proxy", daemon=True)
    thread.start()
    proxy.await_ready()
    try:
        yield proxy
    finally:
        proxy.end()
        thread.join()
