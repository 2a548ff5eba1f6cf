"""What a crash has left of the library: files that no row names, rows that no picture refers to.

Only files of a certain age count, so that the uploads under way in other processes are safe. Several processes may
sweep at once: removing twice does no harm.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.transactions import read, write
from app.errors import DatabaseUnavailable, ServerBusy
from app.services.library_rows import StoredName, find_ownerless, find_stored, remove_ownerless
from app.storage import Storage, StorageError

# A file this old that no row names is nobody's: the sweep removes it.
ABANDONED_AFTER_SECONDS = 3600.0
# The second round finds what a crash right before the start had left, which the first is too early for.
SECOND_ROUND_SECONDS = ABANDONED_AFTER_SECONDS * 1.1
ROUND_SECONDS = 24 * 3600.0
ROWS_AT_ONCE = 200


async def sweep_for_ever(engine: AsyncEngine, storage: Storage) -> None:
    """Sweep now, again when what is young now has become old, and daily from then on."""
    pause = SECOND_ROUND_SECONDS
    while True:
        try:
            removed = await sweep(engine, storage, older_than_seconds=ABANDONED_AFTER_SECONDS)
            if removed:
                logger.info("library: {} files without a picture were removed", removed)
        except (DatabaseUnavailable, ServerBusy, StorageError) as error:
            logger.warning("library: the sweep has to wait: {}", error)
        await asyncio.sleep(pause)
        pause = ROUND_SECONDS


async def sweep(engine: AsyncEngine, storage: Storage, *, older_than_seconds: float) -> int:
    """Remove what is nobody's; returns how many files.

    Raises:
        DatabaseUnavailable, ServerBusy, StorageError: it did not get to its end.
    """
    removed = 0

    async def find(connection: AsyncConnection) -> list[str]:
        return await find_ownerless(connection, ROWS_AT_ONCE)

    while ownerless := await read(engine, find):
        removed += await _remove_rows(engine, storage, ownerless)
    async with aclosing(storage.leftovers(older_than_seconds=older_than_seconds)) as batches:
        async for names in batches:
            removed += await _remove_unnamed(engine, storage, names)
    return removed


async def _remove_rows(engine: AsyncEngine, storage: Storage, hashes: Sequence[str]) -> int:
    async def remove(connection: AsyncConnection) -> list[StoredName]:
        return await remove_ownerless(connection, hashes)

    gone = await write(engine, remove)
    for stored in gone:
        await storage.remove(stored.file)
        await storage.remove(stored.thumbnail)
    return 2 * len(gone)


async def _remove_unnamed(engine: AsyncEngine, storage: Storage, names: Sequence[str]) -> int:
    hashes = sorted({name.partition("-")[0] for name in names})

    async def find(connection: AsyncConnection) -> set[StoredName]:
        return await find_stored(connection, hashes)

    # A version is never used twice: a file whose row is not there by now will never have one.
    named = {name for stored in await read(engine, find) for name in (stored.file, stored.thumbnail)}
    unnamed = [name for name in names if name not in named]
    for name in unnamed:
        await storage.remove(name)
    return len(unnamed)
