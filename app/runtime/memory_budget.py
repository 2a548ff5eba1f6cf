"""A bound on the memory that uploads take: a fixed number of bytes, lent in the order of the asking."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

# What uploads may take in each process: twelve photos of 10 MB at once, or three hundred usual ones of 400 KB.
UPLOAD_MEMORY_BYTES = 128 * 1024 * 1024


class MemoryTimeoutError(Exception):
    """The memory did not become free in time."""


class MemoryBudget:
    """`total_bytes` that are reserved before anything is read, and given back afterwards."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._free = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, size_bytes: int, *, timeout_seconds: float) -> AsyncIterator[None]:
        """Hold `size_bytes` (at most all there are) for the length of the block.

        Raises:
            MemoryTimeoutError: they did not become free in time.
        """
        size = min(size_bytes, self._total)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._take(size)
        except TimeoutError:
            raise MemoryTimeoutError from None
        try:
            yield
        finally:
            self._give_back(size)

    @property
    def free_bytes(self) -> int:
        """What no request holds."""
        return self._free

    async def _take(self, size: int) -> None:
        # A small upload does not overtake a large one, which would otherwise wait without end.
        if size <= self._free and not self._waiting:
            self._free -= size
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._give_back(size)
            else:
                # It may have been taken from the queue in the same moment.
                with suppress(ValueError):
                    self._waiting.remove((size, granted))
                self._grant()
            raise

    def _give_back(self, size: int) -> None:
        self._free += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, granted = self._waiting.popleft()
            if not granted.cancelled():
                self._free -= size
                granted.set_result(None)
