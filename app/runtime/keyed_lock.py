"""A lock for each key, as long as a task holds it or waits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class KeyedLock:
    """Lets one task at a time work on a key; those that wait get it in the order in which they came."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def held(self, key: str, *, timeout_seconds: float) -> AsyncIterator[None]:
        """Hold the lock of `key` for the length of the block.

        Raises:
            TimeoutError: other tasks have held it for the whole time.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        if lock.locked():
            async with asyncio.timeout(timeout_seconds):
                await lock.acquire()
        else:
            # Without a wait: a time-out of 0 would fail here as well.
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()
