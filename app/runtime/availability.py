"""Whether a server that requests depend on answers: while it does not, they are refused at once, and none waits for it.

What a call meets is a suspicion only, since one slow statement or one lost connection is no outage. A probe, one at a
time and on a connection of its own, decides; and it goes on until the server is back.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from app.runtime.background import OutageLog, spawn

# A call that is under way for so long may wait for a server that says nothing.
SUSPECT_AFTER_SECONDS = 1.0
# For so long nothing may get through, neither a probe nor a call, until the server counts as away: a failover that is
# quicker costs no refusal.
AWAY_AFTER_SECONDS = 1.0
# Longer than a second, after which TCP sends the first packet of a connection again. Together with the first of these,
# a call waits 2.5 s for a server that says nothing.
PROBE_TIMEOUT_SECONDS = 1.5
PROBE_PAUSE_SECONDS = 0.5
# A probe that ends so long after its time-out says that this process stood still, nothing of the server.
MAX_LATE_SECONDS = 0.5


class Availability:
    """What this process knows of one server. All methods belong to its event loop.

    Args:
        probe: returns when the server answers, raises when it does not.
        outage: knows whether the server is away, and logs when that changes.
        on_return: called when the server is back.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[object]], *, outage: OutageLog, on_return: Callable[[], None]
    ) -> None:
        self._probe = probe
        self._outage = outage
        self._on_return = on_return
        self._calls: set[asyncio.Timeout] = set()
        self._answers = 0
        self._probing: asyncio.Task[None] | None = None
        self._next_probing = -math.inf
        # `time.monotonic()` of the end of the last outage.
        self.returned_at = -math.inf

    @property
    def is_away(self) -> bool:
        """Whether calls are to be refused."""
        return self._outage.is_out

    @asynccontextmanager
    async def call(self, deadline: float) -> AsyncIterator[None]:
        """Bound the block, which asks the server; when it ends without an error, the server has answered.

        Args:
            deadline: time of the event loop at which the block is cancelled.

        Raises:
            TimeoutError: the deadline has passed, or the server is away.
        """
        suspicion = asyncio.get_running_loop().call_later(SUSPECT_AFTER_SECONDS, self.suspect)
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                self._calls.add(limit)
                yield
            self._note_answer()
        finally:
            self._calls.discard(limit)
            suspicion.cancel()

    def suspect(self) -> None:
        """Have it found out whether the server answers, unless that is under way or was a moment ago."""
        if self._probing is None and time.monotonic() >= self._next_probing:
            self._probing = spawn(self._probe_until_answered(), name="availability")

    def close(self) -> None:
        """Probe no longer."""
        if self._probing is not None:
            self._probing.cancel()

    async def _probe_until_answered(self) -> None:
        silent_since, answers = time.monotonic(), self._answers
        try:
            while True:
                began = time.monotonic()
                try:
                    async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                        await self._probe()
                except Exception as error:  # noqa: BLE001 - the log of the outage has the traceback of a bug
                    now = time.monotonic()
                    if self._answers != answers or now - began > PROBE_TIMEOUT_SECONDS + MAX_LATE_SECONDS:
                        # The probe alone has failed, as where this machine is too busy for it.
                        silent_since, answers = now, self._answers
                    elif now - silent_since >= AWAY_AFTER_SECONDS:
                        self._note_silence(error)
                else:
                    self._note_answer()
                    return
                await asyncio.sleep(PROBE_PAUSE_SECONDS)
        finally:
            self._probing = None
            self._next_probing = time.monotonic() + PROBE_PAUSE_SECONDS

    def _note_silence(self, error: Exception) -> None:
        self._outage.failed(error)
        for limit in self._calls:
            if not limit.expired():
                limit.reschedule(-math.inf)

    def _note_answer(self) -> None:
        self._answers += 1
        if self._outage.is_out:
            self._outage.succeeded()
            self.returned_at = time.monotonic()
            self._on_return()
