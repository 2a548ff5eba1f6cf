"""The two files of a picture, its bytes and its thumbnail, as one thing: whether both are there, and both removed."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing

from loguru import logger

from app.services.library.rows import StoredName
from app.storage import FileMissingError, Storage, StorageError

# Deleting a large account takes as many round trips to S3 as there are files, divided by this.
REMOVED_AT_ONCE = 16


async def is_whole(storage: Storage, stored: StoredName) -> bool:
    """Whether the file is there with the very bytes that its hash names, and has a thumbnail beside it.

    Raises:
        StorageError: the storage does not work just now.
    """
    content = hashlib.sha256()
    try:
        async with aclosing(storage.read(stored.file)) as pieces:
            async for piece in pieces:
                content.update(piece)
        async with aclosing(storage.read(stored.thumbnail)) as pieces:
            has_thumbnail = bool(await anext(pieces, b""))
    except FileMissingError:
        return False
    return has_thumbnail and content.hexdigest() == stored.sha256


async def remove_files(storage: Storage, names: Sequence[StoredName]) -> None:
    """Remove files that no row names any more; what does not succeed is left to the sweep."""
    for start in range(0, len(names), REMOVED_AT_ONCE):
        await asyncio.gather(*(_remove(storage, stored) for stored in names[start : start + REMOVED_AT_ONCE]))


async def _remove(storage: Storage, stored: StoredName) -> None:
    try:
        # The file first: a thumbnail alone is found by the sweep just as well.
        await storage.remove(stored.file)
        await storage.remove(stored.thumbnail)
    except StorageError as error:
        logger.warning("a file of the library is left to the next sweep: {}", type(error.__cause__).__name__)
