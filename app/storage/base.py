"""What the library asks of a storage. Every method leaves the event loop free while the storage works."""

import re
from collections.abc import AsyncGenerator
from typing import Protocol

# Local reads and S3's answers come in pieces of this size: a download never takes more memory than two of them.
PIECE_BYTES = 256 * 1024
# The one file that has no hash for a name. It is not secret.
MARK = "library-id"
_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}(\.[a-z]{1,8})?")


class StorageError(Exception):
    """The storage does not work just now; `__cause__` says why."""


class FileMissingError(StorageError):
    """There is no file of this name."""


class Storage(Protocol):
    """Files by name: a SHA-256, a hyphen, 16 hex digits, and perhaps a suffix (`ab12...-0123456789abcdef.jpg`).

    Every method raises StorageError when the storage does not work.
    """

    async def save(self, name: str, data: bytes) -> None:
        """Keep a file: when this returns it survives a power cut, and until then it is not to be seen."""
        ...

    def read(self, name: str) -> AsyncGenerator[bytes]:
        """Yield a file in pieces; a file that is removed meanwhile is read to its end, or raises.

        Raises:
            FileMissingError: there is none, which the first piece tells.
        """
        ...

    async def remove(self, name: str) -> None:
        """Remove a file; it is no error when there is none."""
        ...

    def leftovers(self, *, older_than_seconds: float) -> AsyncGenerator[list[str]]:
        """Yield the names of all older files, some at a time; what a cut-off `save` has left is removed on the way."""
        ...

    async def is_empty(self) -> bool:
        """Return whether there is no file; one that is just being saved need not count."""
        ...

    async def read_mark(self) -> str | None:
        """Return whose files these are, as `write_mark` has noted it; None where no process has."""
        ...

    async def write_mark(self, mark: str) -> None:
        """Note whose files these are: a short text in ASCII."""
        ...

    async def close(self) -> None:
        """Give back what the storage holds."""
        ...


def is_name(text: str) -> bool:
    """Whether this is a name of the storage; nothing else ever becomes part of a path."""
    return _NAME.fullmatch(text) is not None


def path_of(name: str) -> str:
    """Return where a file lies, relative to the storage: in one of 65,536 folders, by the hash.

    Raises:
        ValueError: this is no name.
    """
    if not is_name(name):
        raise ValueError("not a name of the storage")
    return f"{name[:2]}/{name[2:4]}/{name}"
