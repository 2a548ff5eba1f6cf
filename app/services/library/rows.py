"""The rows of the library. A row of `stored_file` exists exactly as long as a picture refers to it.

A request that adds or removes a picture locks the row of its file first, so what a removal counts cannot change
meanwhile: the last owner's transaction deletes the row, and an upload that comes too late makes a new one, with a file
of its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.statements import Statement, execute, timestamp_text, upsert
from app.database.tables.accounts import User
from app.database.tables.library import LibraryImage as ImageRow
from app.database.tables.library import StoredFile
from app.photo import PhotoFormat


@dataclass(frozen=True, slots=True)
class LibraryImage:
    """A picture of an account's library. Width and height are in pixels as stored, before an orientation is applied."""

    id: int
    sha256: str
    filename: str
    format: PhotoFormat
    width: int
    height: int
    size_bytes: int
    created_at: datetime
    # With the hash the name of its file; of no meaning outside the library.
    version: str = field(repr=False)

    @property
    def stored(self) -> "StoredName":
        return StoredName(self.sha256, self.version)


class NewImage(NamedTuple):
    """What is to be added to an account's library."""

    user_id: int
    sha256: str
    filename: str
    format: PhotoFormat
    width: int
    height: int
    size_bytes: int


class Added(NamedTuple):
    """What has become of a NewImage; `version` is that of the picture's file now, None where there is no file."""

    image_id: int | None
    version: str | None
    used_bytes: int
    has_owner: bool = True
    is_over_quota: bool = False


class FileRow(NamedTuple):
    """A file by its hash, and whether a picture refers to it."""

    sha256: str
    has_owner: bool


class StoredName(NamedTuple):
    """Names one file of the storage, and the thumbnail beside it."""

    sha256: str
    version: str

    @property
    def file(self) -> str:
        return f"{self.sha256}-{self.version}"

    @property
    def thumbnail(self) -> str:
        return f"{self.file}.jpg"


_IMAGES = select(
    ImageRow.id,
    ImageRow.sha256,
    ImageRow.filename,
    ImageRow.format,
    ImageRow.width,
    ImageRow.height,
    ImageRow.size_bytes,
    ImageRow.created_at,
    StoredFile.version,
).join(StoredFile, StoredFile.sha256 == ImageRow.sha256)


async def add_image(
    connection: AsyncConnection,
    new: NewImage,
    *,
    created_at: datetime,
    quota_bytes: int,
    version: str | None,
    replaces: str | None = None,
    tried_id: int | None = None,
) -> Added:
    """Add a picture whose file is there already, or else lies in the storage as `version`, if that is not None.

    The rows are left alone where the picture would be over the quota (0: there is none), or has no file.

    Args:
        connection: in a transaction that writes.
        new: what is to be added.
        created_at: when.
        quota_bytes: of the account.
        version: of the file that was written for it.
        replaces: the version of a file that is lost or damaged; all its pictures get the new one.
        tried_id: what an earlier try of the same transaction has given the picture. If it is there, that was committed.
    """
    # The lock: two uploads of one account must not both find the last free place.
    owner = await connection.scalar(select(User.id).where(User.id == new.user_id).with_for_update())
    tried = None if tried_id is None else await find_image(connection, new.user_id, tried_id)
    if tried is not None and tried.sha256 == new.sha256:
        return Added(tried.id, tried.version, 0)
    used = await _used_bytes(connection, new.user_id) if quota_bytes else 0
    is_over_quota = bool(quota_bytes) and used + new.size_bytes > quota_bytes
    is_refused = owner is None or is_over_quota
    if version is not None and not is_refused:
        # An update that changes nothing locks the row as an insert does, so two that insert cannot deadlock.
        text = upsert(
            connection.dialect.name,
            table="stored_file",
            keys=["sha256"],
            updates={"version": "CASE WHEN stored_file.version = %s THEN {new} ELSE stored_file.version END"},
            columns="sha256, version, size_bytes, created_at",
            source="VALUES (%s,%s,%s,%s)",
        )
        values = (new.sha256, version, new.size_bytes, timestamp_text(created_at), replaces)
        await execute(connection, Statement(text, values))
    there = select(StoredFile.version).where(StoredFile.sha256 == new.sha256).with_for_update()
    version_there = await connection.scalar(there)
    if is_refused or version_there is None:
        return Added(None, version_there, used, owner is not None, is_over_quota)
    inserted = await connection.execute(insert(ImageRow).values(**new._asdict(), created_at=created_at))
    assert inserted.inserted_primary_key is not None  # noqa: S101 - an INSERT of one row
    return Added(int(inserted.inserted_primary_key[0]), version_there, used)


async def remove_images(
    connection: AsyncConnection, user_id: int, *, image_id: int | None = None, limit: int = 1
) -> tuple[int, list[StoredName]]:
    """Remove one picture of an account, or up to `limit` of them; what belongs to them goes by foreign keys.

    Returns:
        How many were removed, and the files that have lost their last owner: to be removed after the commit.
    """
    query = select(ImageRow.id, ImageRow.sha256).where(ImageRow.user_id == user_id)
    query = query.order_by(ImageRow.id).limit(limit) if image_id is None else query.where(ImageRow.id == image_id)
    images = (await connection.execute(query)).all()
    stored = await _locked(connection, {image.sha256 for image in images})
    of_these = ImageRow.id.in_([image.id for image in images])
    removed = (await connection.execute(delete(ImageRow).where(of_these, ImageRow.user_id == user_id))).rowcount
    return removed, await _without_owner(connection, stored)


async def remove_ownerless(connection: AsyncConnection, hashes: Sequence[str]) -> list[StoredName]:
    """Remove the rows of these files to which no picture refers; returns the files, as `remove_images`."""
    return await _without_owner(connection, await _locked(connection, set(hashes)))


async def find_files(connection: AsyncConnection, after: str, limit: int) -> list[FileRow]:
    """Return the next files after this hash. A file has no owner when an operator has deleted an account by hand."""
    has_owner = exists().where(ImageRow.sha256 == StoredFile.sha256)
    query = select(StoredFile.sha256, has_owner).where(StoredFile.sha256 > after)
    rows = await connection.execute(query.order_by(StoredFile.sha256).limit(limit))
    return [FileRow(sha256, bool(is_owned)) for sha256, is_owned in rows]


async def find_stored(connection: AsyncConnection, hashes: Sequence[str]) -> set[StoredName]:
    """Return which files the rows of these hashes name."""
    query = select(StoredFile.sha256, StoredFile.version).where(StoredFile.sha256.in_(hashes))
    return {StoredName(*row) for row in (await connection.execute(query)).all()}


async def find_size(connection: AsyncConnection, sha256: str, *, max_pixels: int) -> tuple[int, int] | None:
    """Return width and height, in pixels as stored, of any picture of these bytes that has at most `max_pixels`."""
    of_these = ImageRow.sha256 == sha256, ImageRow.width * ImageRow.height <= max_pixels
    row = (await connection.execute(select(ImageRow.width, ImageRow.height).where(*of_these).limit(1))).one_or_none()
    return None if row is None else (row.width, row.height)


async def find_image(connection: AsyncConnection, user_id: int, image_id: int) -> LibraryImage | None:
    """Return one picture of an account."""
    query = _IMAGES.where(ImageRow.id == image_id, ImageRow.user_id == user_id)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _image(row._asdict())


async def list_images(
    connection: AsyncConnection, user_id: int, *, skip: int, limit: int
) -> tuple[list[LibraryImage], int]:
    """Return some pictures of an account, the newest first, and how many there are."""
    total = await connection.scalar(select(func.count()).select_from(ImageRow).where(ImageRow.user_id == user_id))
    query = _IMAGES.where(ImageRow.user_id == user_id).order_by(ImageRow.id.desc()).offset(skip).limit(limit)
    return [_image(row._asdict()) for row in (await connection.execute(query)).all()], total or 0


async def _used_bytes(connection: AsyncConnection, user_id: int) -> int:
    query = select(func.coalesce(func.sum(ImageRow.size_bytes), 0)).where(ImageRow.user_id == user_id)
    return int(await connection.scalar(query) or 0)


async def _locked(connection: AsyncConnection, hashes: Collection[str]) -> list[StoredName]:
    """Lock the rows of these files, in the one order that all requests keep."""
    query = select(StoredFile.sha256, StoredFile.version).where(StoredFile.sha256.in_(hashes))
    rows = (await connection.execute(query.order_by(StoredFile.sha256).with_for_update())).all()
    return [StoredName(*row) for row in rows]


async def _without_owner(connection: AsyncConnection, stored: Sequence[StoredName]) -> list[StoredName]:
    """Delete those of these locked rows to which no picture refers, and return them."""
    query = select(ImageRow.sha256).where(ImageRow.sha256.in_([name.sha256 for name in stored])).distinct()
    owned = set((await connection.scalars(query)).all())
    gone = [name for name in stored if name.sha256 not in owned]
    if gone:
        await connection.execute(delete(StoredFile).where(StoredFile.sha256.in_([name.sha256 for name in gone])))
    return gone


def _image(values: dict[str, Any]) -> LibraryImage:
    return LibraryImage(**values | {"format": PhotoFormat(values["format"])})
