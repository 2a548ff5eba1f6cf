"""What a crash has left of the library: files that no row names, rows that no picture refers to.

Only files of a certain age count, so that the uploads under way in other processes are safe. And only files of a
storage that is marked as this database's: with any other database, such as one with a misspelt name, all of them would
look unowned.
"""

import secrets
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime

from loguru import logger
from sqlalchemy import ColumnElement, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.statements import Statement, execute, seconds_from_now, upsert
from app.database.tables.library import LibraryState
from app.database.transactions import read, write
from app.runtime.background import OutageLog, every
from app.services.library.rows import FileRow, StoredName, find_files, find_stored, remove_ownerless
from app.storage import Storage, StorageError

# A file this old that no row names is an orphan: the sweep removes it.
ABANDONED_AFTER_SECONDS = 3600.0
# The second round finds what a crash right before the start had left, which the first is too early for.
SECOND_ROUND_SECONDS = ABANDONED_AFTER_SECONDS * 1.1
ROUND_SECONDS = 24 * 3600.0
# All processes come to their rounds together; one of them does the work.
TURN_SECONDS = int(ABANDONED_AFTER_SECONDS)
ROWS_AT_ONCE = 500


async def sweep_regularly(engine: AsyncEngine, storage: Storage) -> None:
    """Sweep now, again when what is young now has become old, and daily from then on, until the task is cancelled."""

    async def sweep_in_turn() -> None:
        if await take_turn(engine, storage):
            removed = await sweep(engine, storage, older_than_seconds=ABANDONED_AFTER_SECONDS)
            if removed:
                logger.info("library: {} files without a picture were removed", removed)

    outage = OutageLog(
        "library: files without a picture cannot be removed",
        recovered="library: files without a picture are removed again",
        expected=(StorageError,),
    )
    with outage.guard():
        await sweep_in_turn()
    await every(ROUND_SECONDS, sweep_in_turn, outage=outage, first_after_seconds=SECOND_ROUND_SECONDS)


async def mark_storage(engine: AsyncEngine, storage: Storage) -> None:
    """Note on a storage without a mark that it is this database's, which is about to save its first file there.

    Not before: a service that has been tried on SQLite, without a picture, may move to MySQL.

    Raises:
        DatabaseUnavailable, ServerBusy, StorageError: it cannot be noted.
    """
    if await storage.read_mark() is not None:
        return
    new_id = secrets.token_hex(16)

    async def find(connection: AsyncConnection) -> str:
        await execute(connection, _make_row(connection.dialect.name, new_id))
        return (await connection.scalars(select(LibraryState.library_id))).one()

    await storage.write_mark(await write(engine, find))


async def take_turn(engine: AsyncEngine, storage: Storage) -> bool:
    """Return whether this process is to sweep: the storage is this database's, and was not swept in the last hour.

    Raises:
        DatabaseUnavailable, ServerBusy, StorageError: it cannot be found out.
    """
    new_id = secrets.token_hex(16)
    now: ColumnElement[datetime] = literal_column(seconds_from_now(engine.dialect.name, 0))
    last_turn: ColumnElement[datetime] = literal_column(seconds_from_now(engine.dialect.name, -TURN_SECONDS))

    async def claim(connection: AsyncConnection) -> str | None:
        await execute(connection, _make_row(connection.dialect.name, new_id))
        is_due = LibraryState.swept_at <= last_turn
        if not (await connection.execute(update(LibraryState).where(is_due).values(swept_at=now))).rowcount:
            return None
        return await connection.scalar(select(LibraryState.library_id))

    library_id = await write(engine, claim)
    if library_id is None:
        return False
    mark = await storage.read_mark()
    if mark is None:
        # No file has been saved in it.
        return False
    if mark != library_id:
        logger.error(
            "library: the files belong to another database, so none is swept. Check DATABASE_URL, MYSQL_*, UPLOAD_DIR"
            " and STORAGE_URL. If that database is gone for good, remove the file library-id of the storage, and"
            " restart."
        )
        return False
    return True


async def sweep(engine: AsyncEngine, storage: Storage, *, older_than_seconds: float) -> int:
    """Remove orphans; returns how many files.

    Raises:
        DatabaseUnavailable, ServerBusy, StorageError: it did not get to its end.
    """
    removed, after = 0, ""

    async def find(connection: AsyncConnection) -> list[FileRow]:
        return await find_files(connection, after, ROWS_AT_ONCE)

    while rows := await read(engine, find):
        after = rows[-1].sha256
        if ownerless := [row.sha256 for row in rows if not row.has_owner]:
            removed += await _remove_rows(engine, storage, ownerless)
    async with aclosing(storage.leftovers(older_than_seconds=older_than_seconds)) as batches:
        async for names in batches:
            removed += await _remove_unnamed(engine, storage, names)
    return removed


def _make_row(dialect: str, library_id: str) -> Statement:
    text = upsert(
        dialect,
        table="library_state",
        keys=["id"],
        updates={"library_id": "library_state.library_id"},
        columns="id, library_id, swept_at",
        source=f"VALUES (1, %s, {seconds_from_now(dialect, -TURN_SECONDS)})",
    )
    return Statement(text, (library_id,))


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
