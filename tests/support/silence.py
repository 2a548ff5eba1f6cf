"""A database that falls silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy.engine import make_url


@dataclass(slots=True)
class Way:
    """A way to a server; `url` leads over it."""

    url: str = ""
    _mended: asyncio.Event = field(default_factory=asyncio.Event)
    _generation: int = 0

    def __post_init__(self) -> None:
        self._mended.set()

    def silence(self) -> None:
        """Have the connections that are open swallow everything from now on; new ones are not affected."""
        self._generation += 1

    def cut(self) -> None:
        """Take nothing that is sent, as behind a firewall that drops packets; new connections get no answer, too."""
        self.silence()
        self._mended.clear()

    def mend(self) -> None:
        """Let new connections through again; those that are open stay silent."""
        self.silence()
        self._mended.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on what comes, while this connection is none of those that are silent."""
        mine = self._generation if self._mended.is_set() else None
        with contextlib.suppress(ConnectionError):
            while await self._mended.wait() and (data := await reader.read(65536)):
                if mine == self._generation:
                    writer.write(data)
                    await writer.drain()
        writer.close()


@asynccontextmanager
async def way_to(url: str) -> AsyncIterator[Way]:
    """A way to the server of `url`, to the same database."""
    server = make_url(url)
    way = Way()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(server.host, server.port)
        await asyncio.gather(way.pump(reader, server_writer), way.pump(server_reader, writer))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        way.url = server.set(host="127.0.0.1", port=port).render_as_string(False)
        try:
            yield way
        finally:
            way.mend()
