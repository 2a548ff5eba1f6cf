"""While a provider limits our rate, it is asked by one call at a time, and not before it wants to be.

A limit is no outage: calls go on, slower, until one succeeds. Which of them has to wait too long is told so at once.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.clients.errors import ModelError, ModelRateLimited

# A provider that asks for more is tried again all the same; until then new calls are refused without asking it.
MAX_PAUSE_SECONDS = 60.0
# Exponential backoff with full jitter, as in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 8.0


class Pace:
    """The pace at which one model client may ask."""

    def __init__(self) -> None:
        self._limited_until: float | None = None
        self._one_at_a_time = asyncio.Lock()

    def slow_down(self, seconds: float) -> None:
        """The provider has refused a call because of its rate, and is not to be asked for `seconds`."""
        until = time.monotonic() + min(seconds, MAX_PAUSE_SECONDS)
        self._limited_until = max(until, self._limited_until or until)

    def speed_up(self) -> None:
        """A call has succeeded: the limit is over."""
        self._limited_until = None

    @asynccontextmanager
    async def turn(self, wait_until: float) -> AsyncIterator[None]:
        """Wait for the turn of a call and hold it for the length of the block; at once where there is no limit.

        Raises:
            ModelRateLimited: the turn would come after `wait_until` (of the monotonic clock).
        """
        if self._limited_until is None:
            yield
            return
        try:
            async with asyncio.timeout(max(0.0, wait_until - time.monotonic())):
                self._refuse_after(wait_until)
                await self._one_at_a_time.acquire()
        except TimeoutError:
            raise ModelRateLimited(retry_after_seconds=self._pause()) from None
        is_limited = True
        try:
            is_limited = await self._wait(wait_until)
            if not is_limited:
                # A call before this one has succeeded: the waiting ones go together.
                self._one_at_a_time.release()
            yield
        finally:
            if is_limited:
                self._one_at_a_time.release()

    async def _wait(self, wait_until: float) -> bool:
        """Wait for as long as the provider wants, and say whether there is a limit still."""
        while (limited_until := self._limited_until) is not None:
            pause = limited_until - time.monotonic()
            if pause <= 0:
                return True
            self._refuse_after(wait_until)
            await asyncio.sleep(pause)
        return False

    def _refuse_after(self, wait_until: float) -> None:
        if self._limited_until is not None and self._limited_until > wait_until:
            raise ModelRateLimited(retry_after_seconds=self._pause())

    def _pause(self) -> float:
        return max(1.0, (self._limited_until or 0.0) - time.monotonic())


def pause_after(error: ModelError, attempt: int) -> float:
    """Return how long to wait after a failed attempt (the first is 1): as the provider asks, else longer each time."""
    if error.retry_after_seconds is not None:
        return error.retry_after_seconds
    longest = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** (attempt - 1))
    return random.uniform(0.5, 1) * float(longest)
