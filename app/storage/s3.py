"""Files in a bucket of S3, or of anything that speaks its language, for installations of several machines.

A put is one request, so an object is there as a whole or not at all; there are no parts that a crash could leave.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app.storage.base import MARK, PIECE_BYTES, FileMissingError, StorageError, is_name, path_of

if TYPE_CHECKING:
    from obstore.store import S3Store

NAMES_AT_ONCE = 500
# Attempts and their pauses together: the client that uploads or deletes is waiting.
WRITE_TIMEOUT_SECONDS = 60.0
RETRY_TIMEOUT = timedelta(seconds=15)
MAX_RETRIES = 3
READ_TIMEOUT = timedelta(seconds=30)
# As long as a client on a slow line may take to read a picture.
REQUEST_TIMEOUT = timedelta(hours=1)


class S3Storage:
    """Files under `prefix` of `bucket`; credentials and region come from the usual AWS_* variables.

    Args:
        bucket: it must exist.
        prefix: without slashes at its ends; may be empty.
        endpoint: address of a server that is not Amazon's; None: Amazon's, or AWS_ENDPOINT_URL.

    Raises:
        StorageError: the AWS_* variables are wrong.
    """

    def __init__(self, bucket: str, *, prefix: str, endpoint: str | None) -> None:
        with _our_errors():
            self._store = _open(bucket, prefix, endpoint)

    async def save(self, name: str, data: bytes) -> None:
        """Keep a file: when this returns it survives a power cut, and until then it is not to be seen."""
        await self._put(path_of(name), data)

    async def read(self, name: str) -> AsyncGenerator[bytes]:
        """Yield a file in pieces; raises if it is removed meanwhile.

        Raises:
            FileMissingError: there is none.
        """
        with _our_errors():
            answer = await self._store.get_async(path_of(name))
            async for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    async def remove(self, name: str) -> None:
        """Remove a file; it is no error when there is none."""
        try:
            with _our_errors():
                async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                    await self._store.delete_async(path_of(name))
        except FileMissingError:
            return

    async def leftovers(self, *, older_than_seconds: float) -> AsyncGenerator[list[str]]:
        """Yield the names of all older files, some at a time."""
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        with _our_errors():
            async for objects in self._store.list(chunk_size=NAMES_AT_ONCE):
                names = [entry["path"].rpartition("/")[2] for entry in objects if entry["last_modified"] < before]
                # Objects that are not ours are not ours to remove.
                yield [name for name in names if is_name(name)]

    async def is_empty(self) -> bool:
        """Return whether there is no file."""
        with _our_errors():
            async for objects in self._store.list(chunk_size=NAMES_AT_ONCE):
                if any(is_name(entry["path"].rpartition("/")[2]) for entry in objects):
                    return False
        return True

    async def read_mark(self) -> str | None:
        """Return whose files these are; None where it has not been noted."""
        try:
            with _our_errors():
                answer = await self._store.get_async(MARK)
                return bytes(await answer.bytes_async()).decode("ascii", "replace")
        except FileMissingError:
            return None

    async def write_mark(self, mark: str) -> None:
        """Note whose files these are."""
        await self._put(MARK, mark.encode("ascii"))

    async def close(self) -> None:
        """Connections go with the object."""

    async def _put(self, path: str, data: bytes) -> None:
        with _our_errors():
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await self._store.put_async(path, data, use_multipart=False)


def _open(bucket: str, prefix: str, endpoint: str | None) -> "S3Store":
    # It takes a while, and most installations have no bucket.
    from obstore.store import S3Store

    return S3Store(
        bucket,
        prefix=prefix or None,
        config={} if endpoint is None else {"endpoint": endpoint},
        client_options={
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "read_timeout": READ_TIMEOUT,
            "timeout": REQUEST_TIMEOUT,
        },
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIMEOUT},
    )


@contextmanager
def _our_errors() -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise FileMissingError("There is no such file.") from error
    except (BaseError, OSError, ValueError) as error:
        # Its own text may hold addresses and names of keys.
        raise StorageError("The bucket of the library cannot be used. Check STORAGE_URL and AWS_*.") from error
