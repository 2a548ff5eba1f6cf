"""So much is worked on at once; the next wait in a line that is bounded in length and in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import ServerBusy


class WaitingLine:
    """`places` are at work at once; at most `max_waiting` wait, in their order, each for `wait_seconds` at most."""

    def __init__(self, places: int, *, max_waiting: int, wait_seconds: float) -> None:
        self.places = asyncio.Semaphore(places)
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place and hold it for the length of the block.

        Raises:
            ServerBusy: too many wait (at once), or there was no place in time.
        """
        if self.places.locked():
            await self._wait()
        else:
            await self.places.acquire()
        try:
            yield
        finally:
            self.places.release()

    async def _wait(self) -> None:
        if self._waiting >= self._max_waiting:
            raise ServerBusy(retry_after_seconds=self._wait_seconds)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self.places.acquire()
        except TimeoutError:
            raise ServerBusy(retry_after_seconds=self._wait_seconds) from None
        finally:
            self._waiting -= 1
