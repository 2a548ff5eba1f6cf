"""Files in a local folder: written under a temporary name, fsynced, and only then renamed, so none is ever half there.

The folders are fsynced too: without that a power cut may take back a rename that was already answered.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from app.storage.base import MARK, PIECE_BYTES, FileMissingError, StorageError, is_name, path_of

T = TypeVar("T")

# In the same file system as the files, or a rename would be a copy.
INCOMING = "incoming"
NAMES_AT_ONCE = 500


class LocalStorage:
    """Files under `folder`, which is created when it is missing.

    Raises:
        StorageError: the folder cannot be created or written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / INCOMING
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Other users of the machine must not see the pictures.
            folder.mkdir(mode=0o700, exist_ok=True)
            self._incoming.mkdir(exist_ok=True)
            probe = self._incoming / uuid4().hex
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StorageError(f"The folder of the library cannot be used: {error}. Check UPLOAD_DIR.") from error

    async def save(self, name: str, data: bytes) -> None:
        """Keep a file: when this returns it survives a power cut, and until then it is not to be seen."""
        await _in_thread(lambda: self._save(self._folder / path_of(name), data))

    async def read(self, name: str) -> AsyncGenerator[bytes]:
        """Yield a file in pieces; one that is removed meanwhile is read to its end.

        Raises:
            FileMissingError: there is none.
        """
        path = self._folder / path_of(name)
        try:
            file = await _in_thread(lambda: path.open("rb", buffering=0))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise FileMissingError("There is no such file.") from error
            raise
        position = 0
        try:
            # At a position of its own: who gives up closes the file while a thread may still be about to read, and the
            # number of a closed file is given to the next.
            while piece := await _in_thread(partial(_read_at, file, position)):
                position += len(piece)
                yield piece
        finally:
            file.close()

    async def remove(self, name: str) -> None:
        """Remove a file; it is no error when there is none."""
        await _in_thread(lambda: (self._folder / path_of(name)).unlink(missing_ok=True))

    async def leftovers(self, *, older_than_seconds: float) -> AsyncGenerator[list[str]]:
        """Yield the names of all older files, some at a time; what a cut-off `save` has left is removed on the way."""
        before = time.time() - older_than_seconds
        await _in_thread(lambda: self._clear_incoming(before))
        names = self._names(before)
        while batch := await _in_thread(lambda: list(islice(names, NAMES_AT_ONCE))):
            yield batch

    async def is_empty(self) -> bool:
        """Return whether there is no file."""
        return await _in_thread(lambda: next(self._names(math.inf), None) is None)

    async def read_mark(self) -> str | None:
        """Return whose files these are; None where it has not been noted."""
        try:
            return await _in_thread((self._folder / MARK).read_text) or None
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    async def write_mark(self, mark: str) -> None:
        """Note whose files these are."""
        await _in_thread(lambda: self._write(self._folder / MARK, mark.encode("ascii")))

    async def close(self) -> None:
        """There is nothing to give back."""

    def _save(self, path: Path, data: bytes) -> None:
        self._write(path, data)
        # Those above as well: they may be new, and another process that made them may not have got so far yet.
        for folder in (path.parent, path.parent.parent, self._folder):
            _sync_folder(folder)

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self._incoming / uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _names(self, before: float) -> Iterator[str]:
        for first in _folders(self._folder):
            for second in _folders(first):
                # Files that are not ours are not ours to remove.
                yield from (
                    entry.name for entry in _entries(second) if is_name(entry.name) and _is_older(entry, before)
                )

    def _clear_incoming(self, before: float) -> None:
        for entry in _entries(self._incoming):
            if _is_older(entry, before):
                Path(entry).unlink(missing_ok=True)


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise StorageError("The folder of the library cannot be used.") from error


def _read_at(file: FileIO, position: int) -> bytes:
    return os.pread(file.fileno(), PIECE_BYTES, position)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(folder: Path) -> list[Path]:
    # Two hex digits, as `path_of` makes them.
    return [Path(entry) for entry in _entries(folder) if len(entry.name) == 2 and entry.is_dir(follow_symlinks=False)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _is_older(entry: os.DirEntry[str], before: float) -> bool:
    try:
        return entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < before
    except FileNotFoundError:
        return False
