"""A semaphore that the processes of one instance share: what one of them does not use, the others may.

Each process brings some places with it. A place, and that a process lives, are locked bytes of one file, so the kernel
gives both back when a process ends, however it ends. The call that waits longest has the next place, whichever process
it is in.
"""

import asyncio
import fcntl
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import NamedTuple

# A process looks so often whether another one has freed a place; of its own it knows at once.
POLL_SECONDS = 0.02
# Who waits is told so soon after it is known that there will be no place in time.
HOPE_SECONDS = 1.0
# A process that waits and has not looked for so long has lost its place in the line: it is stopped, or very busy.
STALLED_SECONDS = 1.0
# How much the last use of a place counts for how long one takes: about the last ten count.
SMOOTHING = 0.2
# gunicorn's workers, task workers; far above any number that a machine carries.
MAX_MEMBERS = 512
# Behind the members: since when each place is used, or zero.
_SINCE_AT = 1 << 16
_SINCE = Struct("<d")
# What is locked lies behind what is written: locks need no content.
_MEMBERS_AT = 1 << 20
_PLACES_AT = 1 << 21


class _Member(NamedTuple):
    """What each process says of itself; times are of the machine's monotonic clock, in seconds."""

    places: int = 0
    waiting: int = 0
    oldest_since: float = math.inf
    use_seconds: float = 0.0
    """How long it has used a place lately; 0: it does not know."""
    written_at: float = 0.0


_RECORD = Struct("<IIddd")


class _Waiter(NamedTuple):
    """Who waits here, since when and until when at the latest (of the monotonic clock, in seconds)."""

    since: float
    until: float
    place: asyncio.Future[int]


class SemaphoreFullError(Exception):
    """No place will be free in time; `expected_seconds` is how long the wait would be."""

    def __init__(self, expected_seconds: float) -> None:
        super().__init__(f"no place for about {expected_seconds:.0f} s")
        self.expected_seconds = expected_seconds


class SharedSemaphore:
    """Places for `places` uses at once of each process that has opened `file`; without a file, of this one alone.

    Open a file once in a process: to close any descriptor of it would give its locks back (fcntl_locking(2)).
    """

    def __init__(self, places: int, file: Path | None = None) -> None:
        self._own = _Member(places)
        self._file: int | None = None
        self._number = 0
        self._held: dict[int, float] = {}
        self._waiters: deque[_Waiter] = deque()
        self._hoped_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        if file is not None:
            self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._number = next(each for each in range(MAX_MEMBERS) if self._lock(_MEMBERS_AT + each))
            self._write()

    async def acquire(self, wait_seconds: float) -> int:
        """Return a place, which is given back by `release`, after `wait_seconds` at most.

        Raises:
            SemaphoreFullError: there will be none in time, by what stands before it in the line, how long places were
                used lately, and how long they are in use by now. That may become known while it waits.
            TimeoutError: there was none in time.
        """
        others = list(self._others())
        if not self._waiters and not any(other.waiting for other in others):
            place = self._take(others)
            if place is not None:
                return place
        now = time.monotonic()
        ahead = len(self._waiters) + sum(other.waiting for other in others)
        expected_seconds = self._line(others, now)(ahead)
        if expected_seconds > wait_seconds:
            raise SemaphoreFullError(expected_seconds)
        waiter = _Waiter(now, now + wait_seconds, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._look()
        try:
            async with asyncio.timeout(wait_seconds):
                return await waiter.place
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._write()
            elif waiter.place.done() and not waiter.place.cancelled() and waiter.place.exception() is None:
                # It was given a place in the same moment.
                self.release(waiter.place.result())
            raise

    def release(self, place: int) -> None:
        """Give a place back."""
        seconds = time.monotonic() - self._held.pop(place)
        before = self._own.use_seconds
        self._own = self._own._replace(use_seconds=before + SMOOTHING * (seconds - before) if before else seconds)
        if self._file is not None:
            os.pwrite(self._file, bytes(_SINCE.size), _SINCE_AT + place * _SINCE.size)
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _PLACES_AT + place)
        self._look()

    def _look(self) -> None:
        """Give places to those who wait here and have waited longest, and look again a little later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        others = list(self._others())
        now = time.monotonic()
        first_of_others = min(
            (other.oldest_since for other in others if now - other.written_at < STALLED_SECONDS), default=math.inf
        )
        while self._waiters and self._waiters[0].since <= first_of_others:
            if self._waiters[0].place.done():
                # Cancelled: its task has not had its turn yet.
                self._waiters.popleft()
                continue
            place = self._take(others)
            if place is None:
                break
            self._waiters.popleft().place.set_result(place)
        if self._waiters and now - self._hoped_at >= HOPE_SECONDS:
            self._hoped_at = now
            self._refuse_hopeless_ones(others, now)
        self._write()
        if self._waiters:
            seconds = HOPE_SECONDS if self._file is None else POLL_SECONDS
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _refuse_hopeless_ones(self, others: list[_Member], now: float) -> None:
        expected_seconds = self._line(others, now)
        staying: deque[_Waiter] = deque()
        for waiter in self._waiters:
            before = len(staying) + sum(_older_ones(other, waiter.since, now) for other in others)
            seconds = expected_seconds(before)
            if now + seconds <= waiter.until:
                staying.append(waiter)
            elif not waiter.place.done():
                waiter.place.set_exception(SemaphoreFullError(seconds))
        self._waiters = staying

    def _take(self, others: list[_Member]) -> int | None:
        """Return a free place, which is taken from then on.

        When a process has ended, the others may for a moment have more than there are, by places of high numbers.
        """
        total = self._own.places + sum(other.places for other in others)
        for place in range(total if len(self._held) < total else 0):
            if place not in self._held and self._lock(_PLACES_AT + place):
                self._held[place] = now = time.monotonic()
                if self._file is not None:
                    os.pwrite(self._file, _SINCE.pack(now), _SINCE_AT + place * _SINCE.size)
                return place
        return None

    def _line(self, others: list[_Member], now: float) -> Callable[[int], float]:
        """Return what says how long one waits behind so many others.

        A use takes as long as the last ones did, or as half of those that go on have taken by now: one place that hangs
        says nothing of the others. Places become free in the order in which they were taken.
        """
        everyone = [self._own, *others]
        total = sum(member.places for member in everyone)
        ages = sorted(now - since for since in self._in_use_since(total))
        uses = [member.use_seconds for member in everyone if member.use_seconds]
        use_seconds = max(sum(uses) / len(uses) if uses else 0.0, statistics.median_low(ages) if ages else 0.0)
        left = [0.0] * (total - len(ages)) + [max(0.0, use_seconds - age) for age in reversed(ages)]
        return lambda ahead: left[ahead % total] + use_seconds * (ahead // total)

    def _in_use_since(self, total: int) -> list[float]:
        if self._file is None:
            return list(self._held.values())
        content = os.pread(self._file, total * _SINCE.size, _SINCE_AT)
        return [since for (since,) in _SINCE.iter_unpack(content) if since]

    def _others(self) -> Iterator[_Member]:
        """Give what the other processes that live say of themselves."""
        if self._file is None:
            return
        content = os.pread(self._file, MAX_MEMBERS * _RECORD.size, 0)
        # Behind the last member there is nothing.
        for number in range(math.ceil(len(content.rstrip(b"\0")) / _RECORD.size)):
            member = _Member(*_RECORD.unpack_from(content, number * _RECORD.size))
            if number == self._number or not member.places:
                continue
            if self._lock(_MEMBERS_AT + number):
                # It has ended.
                os.pwrite(self._file, bytes(_RECORD.size), number * _RECORD.size)
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _MEMBERS_AT + number)
            else:
                yield member

    def _write(self) -> None:
        if self._file is None:
            return
        self._own = self._own._replace(
            waiting=len(self._waiters),
            oldest_since=self._waiters[0].since if self._waiters else math.inf,
            written_at=time.monotonic(),
        )
        os.pwrite(self._file, _RECORD.pack(*self._own), self._number * _RECORD.size)

    def _lock(self, offset: int) -> bool:
        """Lock a byte; return whether no other process has. Without a file, there is no other."""
        if self._file is None:
            return True
        with suppress(BlockingIOError, PermissionError):
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            return True
        return False


def _older_ones(other: _Member, since: float, now: float) -> int:
    """Return how many of those who wait in another process have come before `since`, as if they had come evenly."""
    if not other.waiting or since <= other.oldest_since:
        return 0
    return int(other.waiting * (since - other.oldest_since) / max(now - other.oldest_since, since - other.oldest_since))
