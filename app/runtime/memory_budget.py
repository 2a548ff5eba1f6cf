"""A bound on the memory that uploads take: lent as bytes arrive, and of all there is only a share to each client.

A promise to send ten megabytes takes nothing; ten megabytes that have arrived take ten. Uploads that hold a part of
what they need and wait for each other would wait without end, so the last part of the memory is for one of them at a
time, the oldest that waits: it gets all that it needs, and gives it back. Should that not suffice, the youngest gives
up.
"""

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import chain

# What uploads may take in each process: twelve photos of 10 MB at once, or three hundred usual ones of 400 KB.
UPLOAD_MEMORY_BYTES = 128 * 1024 * 1024
# What the parser and the pieces under way take, however small a photo is.
MIN_RESERVED_BYTES = 64 * 1024
# What one client may hold of it: three photos of 10 MB at once, or eighty usual ones.
CLIENT_SHARE = 0.25


class MemoryTimeoutError(Exception):
    """The memory did not become free in time, or never would have."""


class Lease:
    """What one upload holds of a budget; `age` is less for one that began earlier."""

    def __init__(self, budget: "MemoryBudget", client: str, age: int) -> None:
        self._budget = budget
        self.client = client
        self.age = age
        self.held_bytes = 0
        self.wanted_bytes = 0
        self.works = 0
        self.waits = False
        self.granted: asyncio.Future[None] | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether it will give nothing back before it gets more."""
        return self.waits and not self.works

    async def grow(self, size_bytes: int, *, timeout_seconds: float) -> None:
        """Hold so much more.

        Raises:
            MemoryTimeoutError: it did not become free in time.
        """
        if not self._budget.take(self, size_bytes):
            await self._budget.wait(self, size_bytes, timeout_seconds)

    def shrink(self, size_bytes: int) -> None:
        """Give a part back."""
        self._budget.give_back(self, min(size_bytes, self.held_bytes))

    @contextmanager
    def working_on(self, size_bytes: int) -> Iterator[None]:
        """Hold a part that needs nothing more for the length of the block, and give it back at its end."""
        self._budget.note(self, works=1)
        try:
            yield
        finally:
            self._budget.note(self, works=-1)
            self.shrink(size_bytes)
            self._budget.end_deadlocks()


class MemoryBudget:
    """`total_bytes` for all, of which one client holds at most `share_bytes` (None: all).

    `reserve_bytes`: the last part, of all and of each share, is for one upload at a time.
    """

    def __init__(self, total_bytes: int, *, share_bytes: int | None = None, reserve_bytes: int = 0) -> None:
        self._free = total_bytes
        self._share = total_bytes if share_bytes is None else min(share_bytes, total_bytes)
        self._reserve = min(reserve_bytes, self._share // 2)
        # Which upload may use the reserve of a client's share, or (None) of all.
        self._first: dict[str | None, Lease] = {}
        # Of each client, without those that have none: bytes held, uploads that wait, uploads that are not stuck. They
        # are kept as things change: to count hundreds of uploads anew with each piece was a fifth of an upload's CPU.
        self._held_by = Counter[str]()
        self._waiting_by = Counter[str]()
        self._going_by = Counter[str]()
        # What waits, the oldest first.
        self._queue: list[Lease] = []
        self._begun = 0

    @contextmanager
    def lease(self, client: str) -> Iterator[Lease]:
        """Lend to one upload of `client` for the length of the block."""
        self._begun += 1
        lease = Lease(self, client, self._begun)
        _add(self._going_by, client, 1)
        try:
            yield lease
        finally:
            _add(self._going_by, client, -1)
            self._first = {scope: first for scope, first in self._first.items() if first is not lease}
            self.give_back(lease, lease.held_bytes)
            self.end_deadlocks()

    @asynccontextmanager
    async def reserve(self, size_bytes: int, *, client: str, timeout_seconds: float) -> AsyncIterator[None]:
        """Hold `size_bytes` (at most a client's share) for the length of the block.

        Raises:
            MemoryTimeoutError: they did not become free in time.
        """
        with self.lease(client) as lease:
            await lease.grow(min(size_bytes, self._share), timeout_seconds=timeout_seconds)
            yield

    @property
    def free_bytes(self) -> int:
        """What no upload holds."""
        return self._free

    def take(self, lease: Lease, size_bytes: int) -> bool:
        """Lend `lease` so much more, unless there is not so much, or an older upload waits for it."""
        # A small upload does not overtake a large one, which would otherwise wait without end.
        if not self._is_first(lease):
            for other in self._queue:
                if other.age > lease.age:
                    break
                if other.client == lease.client or self._share_suffices(other):
                    return False
        return self._lend(lease, size_bytes)

    async def wait(self, lease: Lease, size_bytes: int, timeout_seconds: float) -> None:
        """Lend `lease` so much more as soon as there is; the oldest upload comes first.

        Raises:
            MemoryTimeoutError: it did not become free in time, or is held only by uploads that wait as well.
        """
        lease.wanted_bytes = size_bytes
        lease.granted = asyncio.get_running_loop().create_future()
        self.note(lease, waits=True)
        try:
            async with asyncio.timeout(timeout_seconds):
                self._grant()
                self.end_deadlocks()
                await lease.granted
        except TimeoutError:
            raise MemoryTimeoutError from None
        finally:
            self.note(lease, waits=False)
            lease.granted = None

    def give_back(self, lease: Lease, size_bytes: int) -> None:
        """Take a part back from `lease`, for those that wait."""
        lease.held_bytes -= size_bytes
        self._free += size_bytes
        _add(self._held_by, lease.client, -size_bytes)
        self._grant()

    def note(self, lease: Lease, *, waits: bool | None = None, works: int = 0) -> None:
        """Note whether an upload waits, and how much more is worked on of it."""
        was_stuck = lease.is_stuck
        lease.works += works
        if waits is not None and waits is not lease.waits:
            lease.waits = waits
            _add(self._waiting_by, lease.client, 1 if waits else -1)
            if waits:
                insort(self._queue, lease, key=_age)
            else:
                self._queue.remove(lease)
        _add(self._going_by, lease.client, was_stuck - lease.is_stuck)

    def _is_first(self, lease: Lease) -> bool:
        return lease in self._first.values()

    def _suffices(self, left_bytes: int, lease: Lease, scope: str | None) -> bool:
        if left_bytes >= self._reserve:
            return True
        return left_bytes >= 0 and self._first.setdefault(scope, lease) is lease

    def _share_suffices(self, lease: Lease) -> bool:
        left = self._share - self._held_by.get(lease.client, 0) - lease.wanted_bytes
        return self._suffices(left, lease, lease.client)

    def _lend(self, lease: Lease, size_bytes: int) -> bool:
        lease.wanted_bytes = size_bytes
        if not self._share_suffices(lease) or not self._suffices(self._free - size_bytes, lease, None):
            return False
        lease.held_bytes += size_bytes
        self._free -= size_bytes
        _add(self._held_by, lease.client, size_bytes)
        return True

    def _grant(self) -> None:
        if not self._queue:
            return
        at_their_share = set[str]()
        firsts = sorted({each for each in self._first.values() if each.waits}, key=_age)
        for lease in chain(firsts, tuple(self._queue)):
            if not lease.waits or lease.client in at_their_share:
                continue
            if not self._share_suffices(lease):
                at_their_share.add(lease.client)
                if len(at_their_share) == len(self._waiting_by):
                    break
                continue
            if not self._lend(lease, lease.wanted_bytes):
                break
            assert lease.granted is not None  # noqa: S101 - it waits
            lease.granted.set_result(None)
            self.note(lease, waits=False)

    def end_deadlocks(self) -> None:
        """Let the youngest give up where all that hold what is waited for wait themselves.

        To be asked for when an upload begins to wait, when it ends, and when no more of it is worked on.
        """
        if self._going_by and self._waiting_by.keys() <= self._going_by.keys():
            return
        # Who waits for its own share waits for its own uploads, who waits for the rest for all.
        youngest: dict[str | None, Lease] = {}
        for lease in self._queue:
            youngest[None if self._share_suffices(lease) else lease.client] = lease
        for client, lease in youngest.items():
            is_stuck = client not in self._going_by if client is not None else not self._going_by
            if is_stuck and lease.granted is not None:
                lease.granted.set_exception(MemoryTimeoutError())
                self.note(lease, waits=False)


def _age(lease: Lease) -> int:
    return lease.age


def _add(counts: Counter[str], client: str, number: int) -> None:
    """Add to a client's count; what is zero is left out."""
    counts[client] += number
    if not counts[client]:
        del counts[client]
