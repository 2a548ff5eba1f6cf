"""Libraries for tests: people, a service as one process has it, and what must be true of files and rows."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.settings import ImageSettings, LibrarySettings
from app.database.tables.accounts import User
from app.database.tables.library import LibraryImage, StoredFile
from app.runtime.fair_queue import fair_queue
from app.services.library.rows import StoredName
from app.services.library.service import LibraryService
from app.services.photos import UploadedPhoto
from app.storage import Storage
from tests.fakes.images import jpeg_photo

PICTURE = jpeg_photo(300, 200)


def uploaded(data: bytes = PICTURE, name: str = "image.jpg") -> UploadedPhoto:
    return UploadedPhoto(data, hashlib.sha256(data).hexdigest(), name)


async def add_users(engine: AsyncEngine, count: int) -> list[int]:
    """Make accounts without a password; returns their ids."""
    ids = []
    async with engine.begin() as connection:
        for number in range(count):
            name = f"user{number}"
            times = {"created_at": utc_now(), "updated_at": utc_now()}
            values = {"username": name, "username_key": name, "email": name, "email_key": name, "password_hash": ""}
            inserted = await connection.execute(insert(User).values(**values, **times))
            assert inserted.inserted_primary_key is not None
            ids.append(int(inserted.inserted_primary_key[0]))
    return ids


@asynccontextmanager
async def library_on(
    engine: AsyncEngine, storage: Storage, *, quota_megabytes: float = 0, max_pixels: int = 50_000_000
) -> AsyncIterator[LibraryService]:
    """A library as a process of its own would have it."""
    with fair_queue(2, name="decode") as decoder:
        yield LibraryService(
            engine,
            storage,
            decoder=decoder,
            image_settings=ImageSettings.model_validate({"max_pixels": max_pixels}),
            library_settings=LibrarySettings.model_validate({"quota_megabytes": quota_megabytes}),
        )


async def names_in(storage: Storage) -> set[str]:
    """All files of a storage."""
    return {name async for names in storage.leftovers(older_than_seconds=-10) for name in names}


async def names_of_rows(engine: AsyncEngine) -> set[str]:
    """All files that rows name; each has an owner, and each picture has one."""
    async with engine.connect() as connection:
        stored = [StoredName(*row) for row in await connection.execute(select(StoredFile.sha256, StoredFile.version))]
        owned = set(await connection.scalars(select(LibraryImage.sha256)))
    assert {name.sha256 for name in stored} == owned
    return {name for pair in stored for name in (pair.file, pair.thumbnail)}


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "incoming").iterdir() if path.is_file()]


def make_old(folder: Path) -> None:
    """Make all files in a folder look as if they were written long ago."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1_000_000, 1_000_000))
