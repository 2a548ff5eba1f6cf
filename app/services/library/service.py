"""The image library: whose pictures these are, and the files behind them, which equal pictures share.

A file is in the storage before a row names it, and stays there until no row does: a crash can leave a file without a
row, which the sweep removes, but never a row without a file. docs/decisions/library-files.md tells why.
"""

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import datetime

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import photo
from app.clock import utc_now
from app.config.settings import ImageSettings, LibrarySettings
from app.database.transactions import read, write
from app.errors import ImageNotFound, InvalidToken, QuotaExceeded, ServerBusy, StorageUnavailable
from app.runtime.fair_queue import FairQueue
from app.services.idempotency.key import Keep
from app.services.idempotency.rows import insert_answer
from app.services.library.filenames import display_name
from app.services.library.files import is_whole, remove_files
from app.services.library.rows import (
    Added,
    LibraryImage,
    NewImage,
    StoredName,
    add_image,
    find_image,
    find_size,
    find_stored,
    list_images,
    remove_images,
)
from app.services.library.sweep import ABANDONED_AFTER_SECONDS, mark_storage
from app.services.photos import UploadedPhoto, decoded, our_photo_errors
from app.storage import FileMissingError, Storage, StorageError

THUMBNAIL_EDGE_PIXELS = 256
THUMBNAIL_MAX_BYTES = 64 * 1024
VERSION_BYTES = 8
# Rows that one transaction removes when an account goes.
REMOVED_AT_ONCE = 200
# So an upload that was stopped for a long time after it had written its file begins anew.
FILE_TO_ROW_MAX_SECONDS = ABANDONED_AFTER_SECONDS / 2


class LibraryService:
    """Keeps people's pictures; `decoder` is the queue of those whose pixels are decoded."""

    def __init__(
        self,
        engine: AsyncEngine,
        storage: Storage,
        *,
        decoder: FairQueue,
        image_settings: ImageSettings,
        library_settings: LibrarySettings,
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._decoder = decoder
        self._image_settings = image_settings
        self._quota_bytes = library_settings.quota_bytes
        self._is_marked = False

    async def add(
        self,
        account_id: int,
        upload: UploadedPhoto,
        *,
        client: str = "",
        keep: Keep[LibraryImage] | None = None,
    ) -> LibraryImage:
        """Add a picture to an account's library. One that any account has already is not decoded or written again,
        unless its file is lost or damaged: then all accounts that have it get it back. Others are decoded when it is
        the turn of `client`. The answer is kept as `keep` says.

        Raises:
            DuplicateRowError: another request with the same key has added one.
            UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex: the bytes are not a photo we take.
            QuotaExceeded: the account's library would become too large.
            InvalidToken: the account was deleted meanwhile.
            StorageUnavailable: the file cannot be kept just now.
            ServerBusy: too many pictures wait to be decoded.
        """
        with our_photo_errors():
            info = photo.inspect_photo(
                upload.data, allowed=self._image_settings.allowed_formats, max_pixels=self._image_settings.max_pixels
            )
        size = info.size or await self._size_of_equal(upload.sha256)
        made = None
        if size is None:
            made = await self._thumbnail(upload.data, info, client)
            size = made.width, made.height
        filename = display_name(upload.filename, info.format)
        new = NewImage(account_id, upload.sha256, filename, info.format, *size, len(upload.data))
        damaged = await self._damaged(upload.sha256)
        image = await self._add_row(new, None, keep) if damaged is None else None
        if image is None:
            made = made or await self._thumbnail(upload.data, info, client)
            stored = StoredName(upload.sha256, secrets.token_hex(VERSION_BYTES))
            written_at = time.time()
            with _our_storage_errors():
                if not self._is_marked:
                    await mark_storage(self._engine, self._storage)
                    self._is_marked = True
                await self._storage.save(stored.thumbnail, made.jpeg)
                await self._storage.save(stored.file, upload.data)
            image = await self._add_row(new, stored, keep, written_at=written_at, replaces=damaged)
        assert image is not None  # noqa: S101 - a picture with a file is added or refused
        return image

    async def get(self, account_id: int, image_id: int) -> LibraryImage:
        """Return one picture of an account.

        Raises:
            ImageNotFound: there is none with this id, or it is another account's.
        """

        async def find(connection: AsyncConnection) -> LibraryImage | None:
            return await find_image(connection, account_id, image_id)

        image = await read(self._engine, find)
        if image is None:
            raise ImageNotFound
        return image

    async def page(self, account_id: int, *, skip: int, limit: int) -> tuple[list[LibraryImage], int]:
        """Return some pictures of an account, the newest first, and how many it has."""

        async def find(connection: AsyncConnection) -> tuple[list[LibraryImage], int]:
            return await list_images(connection, account_id, skip=skip, limit=limit)

        return await read(self._engine, find)

    async def read(self, image: LibraryImage) -> bytes:
        """Return a picture's bytes, as they were uploaded.

        Raises:
            ImageNotFound: it was deleted meanwhile.
            StorageUnavailable: the storage does not work just now.
        """
        async with aclosing(self._pieces(image.stored.file)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def open_file(self, image: LibraryImage) -> AsyncIterator[bytes]:
        """Return a picture's bytes in pieces, so that a slow reader does not hold all of them; raises as `read`."""
        return await _begun(self._pieces(image.stored.file))

    async def open_thumbnail(self, image: LibraryImage) -> AsyncIterator[bytes]:
        """Return a picture's thumbnail, a JPEG without metadata; raises as `read`."""
        return await _begun(self._pieces(image.stored.thumbnail))

    async def delete(self, account_id: int, image_id: int) -> None:
        """Delete a picture, and what models said of it. Its file goes when no other account has it.

        Raises:
            ImageNotFound: there is none with this id, or it is another account's.
        """
        was_there = False

        async def remove(connection: AsyncConnection) -> list[StoredName]:
            nonlocal was_there
            removed, ownerless = await remove_images(connection, account_id, image_id=image_id)
            # A try whose COMMIT had no answer may have removed it.
            was_there = was_there or bool(removed)
            return ownerless

        await remove_files(self._storage, await write(self._engine, remove))
        if not was_there:
            raise ImageNotFound

    async def delete_all(self, account_id: int) -> None:
        """Delete all pictures of an account."""

        async def remove(connection: AsyncConnection) -> tuple[int, list[StoredName]]:
            return await remove_images(connection, account_id, limit=REMOVED_AT_ONCE)

        removed = REMOVED_AT_ONCE
        while removed:
            removed, ownerless = await write(self._engine, remove)
            await remove_files(self._storage, ownerless)

    async def _size_of_equal(self, sha256: str) -> tuple[int, int] | None:
        """Return width and height of a picture of the same bytes, unless there is none, or it is too large by now."""

        async def find(connection: AsyncConnection) -> tuple[int, int] | None:
            return await find_size(connection, sha256, max_pixels=self._image_settings.max_pixels)

        return await read(self._engine, find)

    async def _damaged(self, sha256: str) -> StoredName | None:
        """Return the file of these bytes if there should be one, but it is not whole."""

        async def find(connection: AsyncConnection) -> set[StoredName]:
            return await find_stored(connection, [sha256])

        stored = await read(self._engine, find)
        with _our_storage_errors():
            if all([await is_whole(self._storage, name) for name in stored]):
                return None
        # A row goes before its file: if this one is there still, the file was not removed by a request.
        return next(iter(stored & await read(self._engine, find)), None)

    async def _add_row(
        self,
        new: NewImage,
        stored: StoredName | None,
        keep: Keep[LibraryImage] | None,
        *,
        written_at: float = 0.0,
        replaces: StoredName | None = None,
    ) -> LibraryImage | None:
        """Add the row; None when there is no file yet. A file that was written for nothing is removed again."""
        created_at = utc_now()
        version = None if stored is None else stored.version
        tried_id: int | None = None

        async def add(connection: AsyncConnection) -> Added:
            nonlocal tried_id
            added = await add_image(
                connection,
                new,
                created_at=created_at,
                quota_bytes=self._quota_bytes,
                version=version,
                replaces=None if replaces is None else replaces.version,
                tried_id=tried_id,
            )
            tried_id = added.image_id
            if stored is not None and time.time() - written_at > FILE_TO_ROW_MAX_SECONDS:
                # The sweep may have removed the file. Nothing is committed.
                raise ServerBusy
            if keep is not None and added.image_id is not None:
                await insert_answer(connection, keep(_added_image(new, added, created_at)))
            return added

        added = await write(self._engine, add)
        # What failed in another way may be committed nevertheless: the sweep will know.
        if stored is not None and added.version != stored.version:
            await remove_files(self._storage, [stored])
        elif replaces is not None:
            logger.error("the stored file of {} was lost or damaged; an upload has replaced it", new.sha256)
            await remove_files(self._storage, [replaces])
        if not added.has_owner:
            raise InvalidToken
        if added.image_id is None:
            if added.is_over_quota:
                raise _quota_exceeded(self._quota_bytes, added.used_bytes)
            return None
        return _added_image(new, added, created_at)

    async def _thumbnail(self, data: bytes, info: photo.PhotoInfo, client: str) -> photo.PreparedJpeg:
        """Decode the picture, which proves that it is whole, and return it small."""

        def make(others: int) -> photo.PreparedJpeg:
            # Not plain: a picture that is small already is to be decoded as well.
            return photo.prepare_photo(
                data,
                replace(info, is_plain=False),
                max_edge=THUMBNAIL_EDGE_PIXELS,
                max_bytes=THUMBNAIL_MAX_BYTES,
                niceness=others,
            )

        return await decoded(self._decoder, client, make)

    async def _pieces(self, name: str) -> AsyncGenerator[bytes]:
        with _our_storage_errors():
            async with aclosing(self._storage.read(name)) as pieces:
                async for piece in pieces:
                    yield piece


def _added_image(new: NewImage, added: Added, created_at: datetime) -> LibraryImage:
    assert added.image_id is not None and added.version is not None  # noqa: S101, PT018 - no picture without a file
    values = new._asdict()
    del values["user_id"]
    return LibraryImage(**values, id=added.image_id, created_at=created_at, version=added.version)


async def _begun(pieces: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """Return the same pieces; what the first one raises is raised here, before an answer has begun."""
    first = await anext(pieces, b"")

    async def all_pieces() -> AsyncIterator[bytes]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return all_pieces()


@contextmanager
def _our_storage_errors() -> Iterator[None]:
    try:
        yield
    except FileMissingError:
        raise ImageNotFound from None
    except StorageError as error:
        raise StorageUnavailable from error


def _quota_exceeded(quota_bytes: int, used_bytes: int) -> QuotaExceeded:
    return QuotaExceeded(details={"quota_bytes": quota_bytes, "used_bytes": used_bytes})
