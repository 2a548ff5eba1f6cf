"""What a process needs of the library: its storage, and the sweep that removes files without a picture."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.errors import AppError
from app.runtime.background import running
from app.runtime.fair_queue import FairQueue
from app.services.library.service import LibraryService
from app.services.library.sweep import sweep_regularly
from app.storage import StorageError, open_storage


@asynccontextmanager
async def open_library(settings: Settings, engine: AsyncEngine, *, decoder: FairQueue) -> AsyncIterator[LibraryService]:
    """Keep pictures for the length of the block.

    Args:
        settings: where the files lie, and what pictures are taken.
        engine: the database.
        decoder: makes thumbnails.

    Raises:
        AppError: the storage is not usable.
    """
    try:
        storage = open_storage(settings.upload_dir, settings.library.bucket)
    except StorageError as error:
        raise AppError(str(error)) from error
    try:
        async with running(sweep_regularly(engine, storage), name="library-sweep"):
            yield LibraryService(
                engine, storage, decoder=decoder, image_settings=settings.image, library_settings=settings.library
            )
    finally:
        await storage.close()
