"""Costly work in a few threads, fair between clients: whose turn it is goes round, however long one client's line is.

A client for which nothing runs yet does not even wait for the work under way, if all of that is one other client's: it
gets a thread more. So neither many cheap requests nor a few of the dearest of one client delay those of another.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

# What waits is in memory: about a hundred photos of a phone fill what there is for uploads.
MAX_WAITING = 200
# An album of thirty HEIC photos, uploaded at once.
MAX_WAIT_SECONDS = 20.0
# For a client when all others' threads are one client's.
EXTRA_THREADS = 1


class QueueFullError(Exception):
    """Too much waits, or it took too long until it was this work's turn."""


class FairQueue:
    """Runs work in `threads` threads, and in one more for a client that would else wait for a single other client."""

    def __init__(self, threads: int, executor: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._executor = executor
        self._running = Counter[str]()
        # In the order of their turns; a client without waiting work is not in it.
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}

    async def run(self, client: str, work: Callable[[int], T]) -> T:
        """Return what `work` returns, run in a thread when it is this client's turn.

        Args:
            client: whose turn it has to be.
            work: is told how much else of this client runs or waits.

        Raises:
            QueueFullError: it was not begun.
            Exception: what the work raised.
        """
        others = self._running[client] + len(self._lines.get(client, ()))
        await self._turn(client)
        loop = asyncio.get_running_loop()
        done = self._executor.submit(work, others)
        # Not when the caller stops to wait: the thread goes on.
        done.add_done_callback(lambda _: loop.call_soon_threadsafe(self._end, client))
        return await asyncio.wrap_future(done)

    async def _turn(self, client: str) -> None:
        self._make_room(client)
        turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(client, deque()).append(turn)
        self._begin_what_may()
        if turn.done():
            return
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # It was its turn in the same moment.
                self._end(client)
            elif turn in (line := self._lines.get(client, deque())):
                line.remove(turn)
                if not line:
                    del self._lines[client]
            if isinstance(error, TimeoutError):
                raise QueueFullError from None
            raise

    def _make_room(self, client: str) -> None:
        """Where too much waits, the last one in the longest line has to go."""
        if sum(map(len, self._lines.values())) < MAX_WAITING:
            return
        longest = max(self._lines, key=lambda each: len(self._lines[each]))
        if len(self._lines[longest]) <= len(self._lines.get(client, ())) + 1:
            raise QueueFullError
        self._lines[longest].pop().set_exception(QueueFullError())

    def _begin_what_may(self) -> None:
        has_begun = True
        while has_begun:
            has_begun = False
            for client in [each for each in self._lines if self._may_begin(each)]:
                has_begun = self._begin_next_of(client) or has_begun

    def _begin_next_of(self, client: str) -> bool:
        if not self._may_begin(client):
            # Another has just begun.
            return False
        line = self._lines.pop(client)
        turn = line.popleft()
        if line:
            # Behind all others.
            self._lines[client] = line
        if not turn.done():
            self._running[client] += 1
            turn.set_result(None)
        return True

    def _may_begin(self, client: str) -> bool:
        running = self._running.total()
        if running < self._threads:
            return True
        is_newcomer = client not in self._running and len(self._running) == 1
        return is_newcomer and running < self._threads + EXTRA_THREADS

    def _end(self, client: str) -> None:
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        self._begin_what_may()


@contextmanager
def fair_queue(threads: int, *, name: str) -> Iterator[FairQueue]:
    """Run work for the length of the block; at its end, wait for what runs."""
    with ThreadPoolExecutor(threads + EXTRA_THREADS, thread_name_prefix=name) as executor:
        yield FairQueue(threads, executor)
