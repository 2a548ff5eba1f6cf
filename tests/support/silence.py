"""A database that falls silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.engine import make_url


@asynccontextmanager
async def going_silent(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A way to the server whose open connections can be made to swallow everything; new ones are not affected."""
    server = make_url(url)
    generation = 0

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = generation
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if mine == generation:
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(server.host, server.port)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    def silence() -> None:
        nonlocal generation
        generation += 1

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        yield server.set(host="127.0.0.1", port=port).render_as_string(False), silence
