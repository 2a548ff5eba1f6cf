"""One contract for every storage: whole files or none, under names of ours only."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from app.config.addresses import bucket_of
from app.storage import FileMissingError, LocalStorage, S3Storage, Storage, StorageError, open_storage
from app.storage.base import PIECE_BYTES

NAME = f"{'ab' * 32}-{'0123456789abcdef'}"
OTHER = f"{'cd' * 32}-{'0' * 16}.jpg"
WRONG_NAMES = ["", "a", "../" + NAME, NAME + "/../x", NAME.upper(), NAME + ".JPG", NAME + "\n", "/etc/passwd", NAME[1:]]


@pytest.fixture(params=["local", "s3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def storage(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    if kind == "local":
        opened = open_storage(tmp_path / "deep" / "folder", None)
    else:
        bucket, endpoint = request.getfixturevalue("s3_bucket"), request.getfixturevalue("s3_endpoint")
        opened = open_storage(tmp_path, bucket_of(f"s3://{bucket}/some/prefix?endpoint={endpoint}"))
    yield opened
    await opened.close()


async def content(storage: Storage, name: str = NAME) -> bytes:
    return b"".join([piece async for piece in storage.read(name)])


async def names_in(storage: Storage, *, older_than_seconds: float = -10) -> list[str]:
    return sorted([n async for names in storage.leftovers(older_than_seconds=older_than_seconds) for n in names])


async def test_files_are_kept_and_removed(storage: Storage) -> None:
    data = os.urandom(3 * PIECE_BYTES + 1)
    await storage.save(NAME, data)
    await storage.save(OTHER, b"other")
    pieces = [piece async for piece in storage.read(NAME)]
    assert b"".join(pieces) == data
    assert len(pieces) > 1
    assert await names_in(storage) == [NAME, OTHER]
    assert await names_in(storage, older_than_seconds=3600) == []
    await storage.remove(NAME)
    await storage.remove(NAME)
    with pytest.raises(FileMissingError):
        await content(storage)
    assert await names_in(storage) == [OTHER]
    assert await content(storage, OTHER) == b"other"


async def test_an_empty_file_and_a_large_one(storage: Storage) -> None:
    # More than S3 libraries like to cut into parts.
    large = bytes(12 * 1024 * 1024)
    await storage.save(NAME, b"")
    await storage.save(OTHER, large)
    assert await content(storage) == b""
    assert await content(storage, OTHER) == large


async def test_the_mark_is_no_file_of_the_library(storage: Storage) -> None:
    assert await storage.read_mark() is None
    for mark in ("ab" * 16, "cd" * 16):
        await storage.write_mark(mark)
        assert await storage.read_mark() == mark
    assert await names_in(storage) == []
    assert await storage.is_empty()
    await storage.save(NAME, b"file")
    assert not await storage.is_empty()


async def test_many_at_once(storage: Storage) -> None:
    names = [f"{number:064x}-{'f' * 16}" for number in range(60)]
    await asyncio.gather(*(storage.save(name, name.encode()) for name in names))
    assert await names_in(storage) == names
    assert await asyncio.gather(*(content(storage, name) for name in names)) == [name.encode() for name in names]


async def test_reading_may_be_given_up(storage: Storage) -> None:
    await storage.save(NAME, os.urandom(4 * PIECE_BYTES))
    async with aclosing(storage.read(NAME)) as pieces:
        assert await anext(pieces)
    assert len(await content(storage)) == 4 * PIECE_BYTES


async def test_no_other_name_becomes_a_path(storage: Storage) -> None:
    for name in WRONG_NAMES:
        for attempt in (storage.save(name, b""), storage.remove(name), content(storage, name)):
            with pytest.raises((ValueError, StorageError)):
                await attempt
    assert await names_in(storage) == []


async def test_a_local_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    synced: list[bool] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        # The file before it has its name, the folders after.
        assert (tmp_path / "ab" / "ab" / NAME).exists() == synced[-1]
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    await storage.save(NAME, b"data")
    assert synced == [False, True, True, True]

    def fail(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError):
        await storage.save(OTHER, b"data")
    assert await names_in(storage) == [NAME]
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_file_that_is_removed_while_it_is_read(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    data = os.urandom(3 * PIECE_BYTES)
    await storage.save(NAME, data)
    pieces = storage.read(NAME)
    first = await anext(pieces)
    await storage.remove(NAME)
    assert first + b"".join([piece async for piece in pieces]) == data


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="UPLOAD_DIR"):
        LocalStorage(tmp_path / "file")


async def test_a_bucket_that_cannot_be_used(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.s3.MAX_RETRIES", 0)
    for storage in (
        S3Storage("no-such-bucket", prefix="", endpoint=s3_endpoint),
        S3Storage(s3_bucket, prefix="", endpoint="http://127.0.0.1:1"),
    ):
        with pytest.raises(StorageError) as refused:
            await storage.save(NAME, b"data")
        assert "127.0.0.1" not in str(refused.value)
        with pytest.raises(StorageError):
            await names_in(storage)


@pytest.mark.parametrize(
    "address",
    [
        "http://bucket",
        "s3://",
        "s3://B",
        "s3://key:secret@bucket",
        "s3://bucket?endpoint=ftp://host",
        "s3://bucket?endpoint=https://key:secret@host",
        "s3://bucket?endpoint=a&endpoint=b",
        "s3://bucket?secret=1",
        "s3://bucket?endpoint",
        "s3://bucket#part",
        "s3://[bucket",
    ],
)
def test_addresses_that_name_no_bucket(address: str) -> None:
    with pytest.raises(ValueError, match="not s3://bucket") as refused:
        bucket_of(address)
    assert "secret@" not in str(refused.value)


def test_addresses_of_buckets() -> None:
    assert bucket_of("s3://bucket") == ("bucket", "", None)
    assert bucket_of("s3://bucket/a/b/?endpoint=https://minio:9000") == ("bucket", "a/b", "https://minio:9000")
