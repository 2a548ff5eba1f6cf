"""Files and rows of the library agree: whatever requests come at the same moment, and wherever a process is killed."""

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app import photo
from app.config.database import DatabaseSettings
from app.config.settings import PROJECT_ROOT, Settings
from app.database.engine import create_engine
from app.database.tables.accounts import User
from app.database.tables.library import LibraryImage as ImageRow
from app.errors import ImageNotFound, InvalidToken, QuotaExceeded, ServerBusy, StorageUnavailable, TooManyPixels
from app.services.library import service as library_module
from app.services.library.rows import LibraryImage
from app.services.library.sweep import sweep
from app.storage import LocalStorage, StorageError
from app.storage.base import path_of
from tests.fakes.images import BLUE, GREEN, heic_photo, jpeg_photo
from tests.support.databases import lost_answers
from tests.support.libraries import PICTURE, add_users, library_on, names_in, names_of_rows, uploaded


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


async def test_many_come_and_go_with_one_picture(
    engine: AsyncEngine, migrated_database: DatabaseSettings, storage: LocalStorage
) -> None:
    users = await add_users(engine, 6)
    other_engine = create_engine(Settings(database=migrated_database))

    async with library_on(engine, storage) as one, library_on(other_engine, storage) as other:

        async def come_and_go(number: int, user: int) -> None:
            for turn in range(8):
                library = (one, other)[(number + turn) % 2]
                image = await library.add(user, uploaded())
                assert await library.read(image) == PICTURE
                await asyncio.sleep(random.random() / 100)
                assert await library.read(await library.get(user, image.id)) == PICTURE
                await library.delete(user, image.id)

        await asyncio.gather(*(come_and_go(*item) for item in enumerate(users)))
        assert await names_in(storage) == set()
        assert await names_of_rows(engine) == set()
    await other_engine.dispose()


async def test_two_that_bring_a_new_picture_at_once_share_one_file(engine: AsyncEngine, storage: LocalStorage) -> None:
    users = await add_users(engine, 5)
    async with library_on(engine, storage) as library:
        images = await asyncio.gather(*(library.add(user, uploaded()) for user in users))
        assert len({image.version for image in images}) == 1
        assert (
            await names_in(storage)
            == await names_of_rows(engine)
            == {images[0].stored.file, images[0].stored.thumbnail}
        )
        for user, image in zip(users, images, strict=True):
            assert image == await library.get(user, image.id)
            with pytest.raises(ImageNotFound):
                await library.get(user + 1, image.id)


async def test_a_picture_whose_header_is_not_read_here_is_decoded_once(
    engine: AsyncEngine, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = await add_users(engine, 4)
    decoded = []

    def decode(data: bytes, info: photo.PhotoInfo, **options: int) -> photo.PreparedJpeg:
        decoded.append(info.format)
        return prepare_photo(data, info, **options)

    prepare_photo = photo.prepare_photo
    monkeypatch.setattr(photo, "prepare_photo", decode)
    picture = uploaded(heic_photo(640, 448))
    async with library_on(engine, storage) as library:
        images = [await library.add(user, picture) for user in users[:2]]
        assert {(image.width, image.height, image.version) for image in images} == {(640, 448, images[0].version)}
        assert len(decoded) == 1
        await break_file(storage, tmp_path, images[0], "no file")
        mended = await library.add(users[2], picture)
        assert (mended.width, mended.height) == (640, 448)
        assert len(decoded) == 2
    # The limit of today counts.
    async with library_on(engine, storage, max_pixels=640 * 447) as library:
        with pytest.raises(TooManyPixels):
            await library.add(users[3], picture)
    assert await names_in(storage) == await names_of_rows(engine)


async def test_two_uploads_do_not_both_find_the_last_free_place(engine: AsyncEngine, storage: LocalStorage) -> None:
    (user,) = await add_users(engine, 1)
    pictures = [uploaded(jpeg_photo(300, 200, colour)) for colour in ((number, 0, 0) for number in range(0, 200, 25))]
    quota = 2.5 * len(pictures[0].data) / 1024 / 1024
    async with library_on(engine, storage, quota_megabytes=quota) as library:
        answers = await asyncio.gather(*(library.add(user, one) for one in pictures), return_exceptions=True)
    assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == len(pictures) - 2
    assert len(await names_in(storage)) == 4
    assert await names_in(storage) == await names_of_rows(engine)


async def test_an_account_that_goes_takes_its_pictures_along(
    engine: AsyncEngine, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "REMOVED_AT_ONCE", 2)
    users = await add_users(engine, 2)
    async with library_on(engine, storage) as library:
        for colour in (GREEN, BLUE, (1, 2, 3)):
            await library.add(users[0], uploaded(jpeg_photo(colour=colour)))
        shared = await library.add(users[1], uploaded(jpeg_photo(colour=GREEN)))
        await library.delete_all(users[0])
        assert await names_in(storage) == {shared.stored.file, shared.stored.thumbnail}
        async with engine.begin() as connection:
            await connection.execute(delete(User).where(User.id == users[0]))
        # Its last upload was still under way.
        with pytest.raises(InvalidToken):
            await library.add(users[0], uploaded(jpeg_photo(colour=BLUE)))
        assert await names_in(storage) == await names_of_rows(engine)


class BrokenStorage(LocalStorage):
    """Fails at what `broken` names."""

    broken = ""

    async def save(self, name: str, data: bytes) -> None:
        if self.broken == "save" and not name.endswith(".jpg"):
            raise StorageError("full") from OSError("No space left on device")
        await super().save(name, data)

    async def remove(self, name: str) -> None:
        if self.broken == "remove":
            raise StorageError("gone") from OSError("Input/output error")
        await super().remove(name)


async def test_a_storage_that_fails(engine: AsyncEngine, tmp_path: Path) -> None:
    storage = BrokenStorage(tmp_path)
    (user,) = await add_users(engine, 1)
    async with library_on(engine, storage) as library:
        storage.broken = "save"
        with pytest.raises(StorageUnavailable):
            await library.add(user, uploaded())
        assert await library.page(user, skip=0, limit=10) == ([], 0)
        storage.broken = "remove"
        image = await library.add(user, uploaded())
        # The picture is deleted all the same; its file waits for the sweep.
        await library.delete(user, image.id)
        storage.broken = ""
        again = await library.add(user, uploaded())
        assert again.version != image.version
        await sweep(engine, storage, older_than_seconds=-10)
        assert await names_in(storage) == {again.stored.file, again.stored.thumbnail}
        assert await library.read(again) == PICTURE


async def test_an_upload_that_slept_for_too_long_begins_anew(
    engine: AsyncEngine, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "FILE_TO_ROW_MAX_SECONDS", -1.0)
    (user,) = await add_users(engine, 1)
    async with library_on(engine, storage) as library:
        with pytest.raises(ServerBusy):
            await library.add(user, uploaded())
    assert await names_of_rows(engine) == set()


async def test_a_file_that_somebody_has_removed_is_not_found(engine: AsyncEngine, storage: LocalStorage) -> None:
    (user,) = await add_users(engine, 1)
    async with library_on(engine, storage) as library:
        image = await library.add(user, uploaded())
        await storage.remove(image.stored.file)
        with pytest.raises(ImageNotFound):
            await library.read(image)
        with pytest.raises(ImageNotFound):
            await library.open_file(image)


# What is done, and how many steps it has at least.
ACTIONS = {"add": 12, "add_shared": 2, "delete": 4, "delete_shared": 2, "delete_all": 4}


# A process for each step of each action. What it tells is the order of files and transactions, which all databases
# share: SQLite sees one action that adds and one that removes.
@pytest.mark.parametrize(
    ("database_kind", "action"),
    [*(("mysql", action) for action in ACTIONS), ("sqlite", "add"), ("sqlite", "delete_all")],
    indirect=["database_kind"],
)
async def test_a_process_may_be_killed_at_any_point(
    engine: AsyncEngine, migrated_database: DatabaseSettings, tmp_path: Path, action: str
) -> None:
    assert migrated_database.url is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.library_deaths",
        action,
        str(tmp_path),
        cwd=PROJECT_ROOT,
        env={**os.environ, "TEST_DATABASE": migrated_database.url.get_secret_value()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    deaths = int(output.split()[-1])
    assert deaths >= ACTIONS[action], output.decode()
    async with engine.connect() as connection:
        assert (await connection.scalars(select(ImageRow.id))).all() == []


@pytest.mark.parametrize("is_there", [False, True])
async def test_an_upload_whose_commit_had_no_answer_is_there_once(
    engine: AsyncEngine, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    users = await add_users(engine, 2)
    async with library_on(engine, storage, quota_megabytes=1) as library:
        if is_there:
            await library.add(users[1], uploaded())
        # The first transaction of a new picture finds that there is no file.
        with lost_answers(engine, monkeypatch, count=1 if is_there else 2) as lost:
            image = await library.add(users[0], uploaded())
        assert lost
        assert await library.page(users[0], skip=0, limit=10) == ([image], 1)
        assert await library.read(image) == PICTURE
    assert await names_in(storage) == await names_of_rows(engine)


async def test_a_deletion_whose_commit_had_no_answer_is_one(
    engine: AsyncEngine, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (user,) = await add_users(engine, 1)
    async with library_on(engine, storage) as library:
        image = await library.add(user, uploaded())
        with lost_answers(engine, monkeypatch) as lost:
            await library.delete(user, image.id)
        assert lost
        assert await library.page(user, skip=0, limit=10) == ([], 0)


async def break_file(storage: LocalStorage, folder: Path, image: LibraryImage, how: str) -> None:
    """Do to a picture's file what a bad disk or a forgotten backup does."""
    if how == "other bytes":
        (folder / path_of(image.stored.file)).write_bytes(b"other bytes")
    else:
        await storage.remove(image.stored.thumbnail if how == "no thumbnail" else image.stored.file)


@pytest.mark.parametrize("how", ["no file", "no thumbnail", "other bytes"])
async def test_an_upload_mends_a_file_that_was_lost_or_damaged(
    engine: AsyncEngine, storage: LocalStorage, tmp_path: Path, how: str
) -> None:
    users = await add_users(engine, 5)
    async with library_on(engine, storage) as library:
        first = await library.add(users[0], uploaded())
        await break_file(storage, tmp_path, first, how)
        images = await asyncio.gather(*(library.add(user, uploaded()) for user in users[1:]))
        for user, image in [(users[0], first), *zip(users[1:], images, strict=True)]:
            now = await library.get(user, image.id)
            assert await library.read(now) == PICTURE
            assert b"".join([piece async for piece in await library.open_thumbnail(now)]).startswith(b"\xff\xd8")
    assert await names_in(storage) == await names_of_rows(engine)
    assert len(await names_in(storage)) == 2
