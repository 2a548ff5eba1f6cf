"""A file of the spool: lines that are on disk when `append` returns, in the hands of one process at a time.

A line is `CRC32 KIND ROWS JSON` and a newline; the checksum is of all that follows it, and shows that the line is
whole. One that was cut off, by a kill or a full disk, stands last: no request was told that it is kept.

The process that works on a file holds a lock on it, which the kernel releases when the process ends, however it ends.
A file whose lock can be taken is therefore one of a process that is gone.
"""

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from loguru import logger

# Lines that the database refuses, for an operator to look at; renamed back, they are tried again.
REFUSED_SUFFIX = ".refused"


class Line(NamedTuple):
    """A whole line: what kind of entry, how many rows, the entry itself as JSON, and where the next line begins."""

    kind: str
    rows: int
    payload: bytes
    end: int


class SpoolFile:
    """A file that this process has locked. Nothing here waits for anything but the disk; call it in a thread."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        # Rows that `read` has not passed yet.
        self.rows = 0
        self._descriptor = descriptor
        self._size = size
        self._position = 0

    @classmethod
    def create(cls, path: Path) -> "SpoolFile":
        """Make a new file in a folder that is made, too, readable by this user only.

        Raises:
            OSError: it cannot be made.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_linked(descriptor):
                raise FileNotFoundError("another process has taken the new file for one that was left behind")
            _sync_folder(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, 0)

    @classmethod
    def adopt(cls, path: Path) -> "SpoolFile | None":
        """Take over the file of a process that is gone; None where its process lives, or where it is gone itself.

        Raises:
            OSError: it cannot be read.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = _is_linked(descriptor)
        except BlockingIOError:
            is_ours = False
        except BaseException:
            os.close(descriptor)
            raise
        if not is_ours:
            os.close(descriptor)
            return None
        file = cls(path, descriptor, os.fstat(descriptor).st_size)
        file.rows = sum(line.rows for line in file._lines())
        return file

    def append(self, kind: str, rows: int, payload: bytes) -> None:
        """Write a line; it is on disk when this returns.

        Raises:
            OSError: it is not; the file is as before.
        """
        line = line_of(kind, rows, payload)
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._descriptor, line[written:], self._size + written)
            os.fsync(self._descriptor)
        except OSError:
            # A part of a line would hide those behind it. If this fails as well, the next line is written over it.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        self.rows += rows

    def read(self, max_rows: int) -> list[Line]:
        """Return the next lines of one kind with together at most `max_rows` rows, at least one; none at the end."""
        found: list[Line] = []
        rows = 0
        for line in self._lines():
            rows += line.rows
            if found and (line.kind != found[0].kind or rows > max_rows):
                break
            found.append(line)
        return found

    def passed(self, lines: list[Line]) -> None:
        """Take note that lines that were `read` are done with."""
        self._position = lines[-1].end
        self.rows -= sum(line.rows for line in lines)

    def refuse(self, line: Line) -> None:
        """Put a line aside that the database does not take: it shall not stand in the way of those behind it.

        Raises:
            OSError: it cannot be written.
        """
        descriptor = os.open(
            f"{self.path}{REFUSED_SUFFIX}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(descriptor, line_of(line.kind, line.rows, line.payload))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_folder(self.path.parent)

    def remove(self) -> None:
        """Delete the file, whose lines are all done with."""
        self.path.unlink(missing_ok=True)
        _sync_folder(self.path.parent)
        self.close()

    def close(self) -> None:
        """Leave the file to other processes."""
        os.close(self._descriptor)

    def _lines(self) -> Iterator[Line]:
        with self.path.open("rb") as opened:
            opened.seek(self._position)
            end = self._position
            for text in opened:
                end += len(text)
                line = _parsed(text, end)
                if line is not None:
                    yield line
                elif end < self._size:
                    logger.error("a line of {} is damaged, and is left out", self.path.name)


def line_of(kind: str, rows: int, payload: bytes) -> bytes:
    """Return a line; `payload` is JSON without a newline."""
    content = b"%s %d %s" % (kind.encode(), rows, payload)
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _parsed(text: bytes, end: int) -> Line | None:
    checksum, _, content = text.removesuffix(b"\n").partition(b" ")
    if not text.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(content):
        return None
    kind, rows, payload = content.split(b" ", 2)
    return Line(kind.decode(), int(rows), payload, end)


def _is_linked(descriptor: int) -> bool:
    return os.fstat(descriptor).st_nlink > 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
