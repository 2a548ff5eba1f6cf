"""The spool: what a request was told is kept, and what was paid for, while the database does not take it.

Entries are typed, not SQL: the features that put them here (log rows, results, findings, bills) also write them into
the database. Each process has files of its own in the folder, and writes them when the database is back; those of a
process that is gone are taken over by any other. Writing an entry again changes nothing, since each has something
unique in the database: so a process may be killed at any moment, between the commit and the removal of the file too.

What was paid for has files of its own. They are written first: hits that are counted later are those of such results,
and before a model is asked about a photo, they are searched for it (`holds`).
"""

import asyncio
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from loguru import logger
from pymysql.err import DataError as DriverDataError
from sqlalchemy.exc import DataError, IntegrityError

from app.database.pipeline import DuplicateRowError
from app.errors import DatabaseUnavailable
from app.runtime.background import OutageLog, every
from app.services.spool.file import Line, SpoolFile

REPLAY_SECONDS = 1.0
RETRY_AFTER_SECONDS = 2.0
# As many as one transaction of the request log takes (app/services/request_log/recorder.py).
MAX_ROWS_PER_REPLAY = 1000
# The rest of the room is for what was paid for.
SHARE_OF_REQUESTS = 0.9
REQUESTS, PAID = ".requests", ".paid"
# Another process may take a new file, which is not locked yet, for one that was left behind.
CREATE_ATTEMPTS = 5
CLOSE_TIMEOUT_SECONDS = 5.0
# What the same entry would meet again: its values, or what it is. Anything else may pass.
_HOPELESS = (DataError, DriverDataError, IntegrityError, DuplicateRowError, ValueError)

# Writes entries of one kind into the database.
Replay = Callable[[Sequence[bytes]], Awaitable[None]]


class Kind(StrEnum):
    """What an entry is."""

    REQUESTS = "requests"
    """Answered requests: log rows, hit counts and rollups follow from them."""
    RESULT = "result"
    """A model's answer for the shared cache, with its bill."""
    FINDING = "finding"
    """A model's answer for one account."""
    BILL = "bill"
    """Calls of models whose outcome is kept elsewhere, or that had none."""

    @property
    def suffix(self) -> str:
        """Of the files with entries of this kind."""
        return REQUESTS if self is Kind.REQUESTS else PAID


class Spool:
    """The spool of this process.

    Args:
        folder: that of all processes of this instance; it is made with the first entry.
        max_bytes: of all files in it together; 0: nothing is taken.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._name = secrets.token_hex(8)
        self._created = 0
        # Files are used in threads; each step holds it.
        self._lock = threading.Lock()
        # By suffix: what is appended to.
        self._current: dict[str, SpoolFile] = {}
        # What is written into the database, in this order.
        self._waiting: list[SpoolFile] = []
        self._replays: dict[str, Replay] = {}
        self._replaying = asyncio.Lock()
        self._is_behind = False
        self._outage = OutageLog("the spool takes nothing", recovered="the spool takes entries again")
        self._database = OutageLog(
            "what is in the spool cannot be written yet", recovered="what was in the spool is written"
        )

    @property
    def is_behind(self) -> bool:
        """Whether the database has not taken anything since something was put here.

        Then requests are logged here, too, without waiting for the database.
        """
        return self._is_behind

    @property
    def rows(self) -> int:
        """Rows that wait in the files of this process and in those that it has taken over."""
        return sum(file.rows for file in [*self._current.values(), *self._waiting])

    def on_replay(self, kind: Kind, replay: Replay) -> None:
        """Have `replay` write the entries of one kind. It may be given any of them again, also after a commit."""
        self._replays[kind.value] = replay

    async def append(self, kind: Kind, payload: bytes, *, rows: int = 1) -> None:
        """Keep an entry: it is on disk when this returns.

        Args:
            kind: what it is.
            payload: JSON without a newline, and without secrets or bytes of a photo.
            rows: how many rows of a table it will be.

        Raises:
            DatabaseUnavailable: it is not kept: the spool is full, or the disk does not take it.
        """
        if not self._max_bytes:
            raise DatabaseUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS)
        self._is_behind = True
        try:
            await asyncio.to_thread(self._append, kind, payload, rows)
        except OSError as error:
            # What comes next shall try the database first.
            self._is_behind = False
            self._outage.failed(error)
            raise DatabaseUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from error
        self._outage.succeeded()
        if kind.suffix == PAID:
            # A replay that has just ended did not know of it, and hits of it must not be counted before it is there.
            self._is_behind = True

    async def holds(self, image_hash: str) -> bool:
        """Return whether an answer for this photo waits in a file of any process of this instance."""
        return await asyncio.to_thread(self._holds, image_hash)

    async def run(self) -> None:
        """Write what is in the spool into the database, until the task is cancelled."""
        await every(REPLAY_SECONDS, self.replay, outage=self._database, first_after_seconds=0)

    async def replay(self) -> None:
        """Write all that is in files of this process, or of processes that are gone, into the database.

        Raises:
            AppError: the database does not take it; what it has taken is done with.
            OSError: a file cannot be read.
        """
        async with self._replaying:
            while files := await asyncio.to_thread(self._next_files):
                for file in files:
                    await self._replay_file(file)
                # What was put into newer files meanwhile has to go before the hits of it.
                self._is_behind = PAID in self._current

    async def close(self) -> None:
        """Write what is left, if the database takes it; else the next process does."""
        with self._database.guard():
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self.replay()
        await asyncio.to_thread(self._close_files)

    async def _replay_file(self, file: SpoolFile) -> None:
        while lines := await asyncio.to_thread(file.read, MAX_ROWS_PER_REPLAY):
            await self._replay_lines(file, lines)
            file.passed(lines)
        await asyncio.to_thread(self._remove, file)

    async def _replay_lines(self, file: SpoolFile, lines: list[Line]) -> None:
        replay = self._replays[lines[0].kind]
        try:
            await replay([line.payload for line in lines])
        except _HOPELESS as error:
            if len(lines) > 1:
                for line in lines:
                    await self._replay_lines(file, [line])
                return
            # It must not stop the others.
            logger.error("an entry of the spool cannot be written, and is put aside ({})", type(error).__name__)
            await asyncio.to_thread(file.refuse, lines[0])

    def _append(self, kind: Kind, payload: bytes, rows: int) -> None:
        with self._lock:
            share = SHARE_OF_REQUESTS if kind is Kind.REQUESTS else 1
            if sum(self._sizes()) + len(payload) > share * self._max_bytes:
                raise OSError("the spool is full")
            if kind.suffix not in self._current:
                self._current[kind.suffix] = self._create(kind.suffix)
            self._current[kind.suffix].append(kind.value, rows, payload)

    def _create(self, suffix: str) -> SpoolFile:
        for _ in range(CREATE_ATTEMPTS):
            self._created += 1
            # Sorted by name, the files of a process are in the order of their making.
            path = self._folder / f"{self._name}-{self._created:08d}{suffix}"
            with suppress(BlockingIOError, FileNotFoundError):
                return SpoolFile.create(path)
        raise OSError("no file of the spool can be made")

    def _next_files(self) -> list[SpoolFile]:
        """Return what has to be written next: files that wait already; else those of now, and of processes gone."""
        with self._lock:
            if not self._waiting:
                adopted = self._adopted()
                # No longer appended to, both at once: the hits in one are of results in the other, or older.
                self._waiting = [*adopted, *self._current.values()]
                self._waiting.sort(key=lambda file: file.path.suffix != PAID)
                self._current.clear()
            return list(self._waiting)

    def _adopted(self) -> list[SpoolFile]:
        """Take over the files of processes that are gone, those of what was paid for first."""
        ours = {file.path for file in self._current.values()}
        others = sorted({*self._paths()} - ours, key=lambda path: (path.suffix != PAID, path.name))
        adopted: list[SpoolFile] = []
        # Processes whose paid results are in the hands of another process: hits of them must not be counted before.
        waiting_for: set[str] = set()
        for path in others:
            process = path.name.partition("-")[0]
            if path.suffix == REQUESTS and process in waiting_for:
                continue
            file = SpoolFile.adopt(path)
            if file is not None:
                adopted.append(file)
            elif path.suffix == PAID:
                waiting_for.add(process)
        return adopted

    def _remove(self, file: SpoolFile) -> None:
        with self._lock:
            self._waiting.remove(file)
        file.remove()

    def _close_files(self) -> None:
        with self._lock:
            for file in (*self._current.values(), *self._waiting):
                file.close()
            self._current.clear()
            self._waiting.clear()

    def _holds(self, image_hash: str) -> bool:
        digits = image_hash.encode()
        for path in self._paths():
            if path.suffix != PAID:
                continue
            try:
                if digits in path.read_bytes():
                    return True
            except FileNotFoundError:
                # It has just been written into the database.
                continue
        return False

    def _paths(self) -> list[Path]:
        """The files of entries, of all processes."""
        try:
            return [path for path in self._folder.iterdir() if path.suffix in {REQUESTS, PAID}]
        except FileNotFoundError:
            return []

    def _sizes(self) -> list[int]:
        """What each file in the folder takes, in bytes."""
        sizes = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        sizes.append(entry.stat(follow_symlinks=False).st_size)
        except FileNotFoundError:
            return []
        return sizes
