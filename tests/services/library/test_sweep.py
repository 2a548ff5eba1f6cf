"""The sweep removes orphans, and nothing else: no file of other processes or of other databases."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.tables.accounts import User
from app.database.tables.library import LibraryState
from app.services.library import sweep as sweep_module
from app.services.library.sweep import mark_storage, sweep, sweep_regularly, take_turn
from app.storage import LocalStorage
from tests.fakes.images import GREEN, jpeg_photo
from tests.support.libraries import add_users, library_on, make_old, names_in, names_of_rows, temporary_files, uploaded
from tests.support.service_settings import migrated


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


async def test_the_sweep_removes_what_is_nobodys_and_old(
    engine: AsyncEngine, storage: LocalStorage, tmp_path: Path
) -> None:
    users = await add_users(engine, 2)
    async with library_on(engine, storage) as library:
        kept = await library.add(users[0], uploaded())
        gone = await library.add(users[1], uploaded(jpeg_photo(colour=GREEN)))
    # By hand, so the library does not know.
    async with engine.begin() as connection:
        await connection.execute(delete(User).where(User.id == users[1]))
    orphan = f"{'ab' * 32}-{'0' * 16}"
    await storage.save(orphan, b"orphan")
    (tmp_path / "incoming" / "cut-off").write_bytes(b"half")
    foreign = tmp_path / "ab" / "ab" / "notes.txt"
    foreign.write_text("not ours")

    assert await sweep(engine, storage, older_than_seconds=3600) == 2
    # It may be an upload under way, for all that is known yet.
    assert len(temporary_files(tmp_path)) == 1
    make_old(tmp_path)
    assert await sweep(engine, storage, older_than_seconds=3600) == 1
    assert temporary_files(tmp_path) == []
    assert foreign.exists()
    assert gone.sha256 != kept.sha256
    assert await names_in(storage) == await names_of_rows(engine) == {kept.stored.file, kept.stored.thumbnail}


async def test_one_of_many_sweeps_and_only_its_own_storage(
    engine: AsyncEngine, storage: LocalStorage, tmp_path: Path
) -> None:
    await asyncio.gather(*(mark_storage(engine, storage) for _ in range(5)))
    turns = await asyncio.gather(*(take_turn(engine, storage) for _ in range(5)))
    assert sorted(turns) == [False] * 4 + [True]
    assert not await take_turn(engine, storage)
    await an_hour_passes(engine)
    assert await take_turn(engine, storage)

    # The same files, but a database that knows nothing of them.
    async with engine.begin() as connection:
        await connection.execute(delete(LibraryState))
    assert not await take_turn(engine, storage)
    await an_hour_passes(engine)
    assert not await take_turn(engine, storage)
    (tmp_path / "library-id").unlink()
    await mark_storage(engine, storage)
    await an_hour_passes(engine)
    assert await take_turn(engine, storage)


async def test_a_storage_belongs_to_no_database_until_its_first_file(
    engine: AsyncEngine, migrated_database: DatabaseSettings, storage: LocalStorage, tmp_path: Path
) -> None:
    """A service that was tried on SQLite, without a picture, has moved to another database."""
    (user,) = await add_users(engine, 1)
    other_settings = DatabaseSettings.model_validate({"url": f"sqlite:///{tmp_path}/other.db"})
    other = create_engine(Settings(database=await migrated(other_settings)))
    try:
        assert not await take_turn(other, storage)
        assert await storage.read_mark() is None
        async with library_on(engine, storage) as library:
            await library.add(user, uploaded())
        await an_hour_passes(engine)
        assert await take_turn(engine, storage)
        await an_hour_passes(other)
        assert not await take_turn(other, storage)
    finally:
        await other.dispose()


async def an_hour_passes(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(LibraryState).values(swept_at=utc_now() - timedelta(seconds=3601)))


async def test_a_start_with_another_database_leaves_all_files(
    engine: AsyncEngine, migrated_database: DatabaseSettings, storage: LocalStorage, tmp_path: Path
) -> None:
    (user,) = await add_users(engine, 1)
    async with library_on(engine, storage) as library:
        image = await library.add(user, uploaded())
    assert await take_turn(engine, storage)
    make_old(tmp_path)
    other = DatabaseSettings.model_validate({"url": f"sqlite:///{tmp_path}/other.db"})
    other_engine = create_engine(Settings(database=await migrated(other)))
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sweep_regularly(other_engine, storage), 1)
    finally:
        await other_engine.dispose()
    assert await names_in(storage) == {image.stored.file, image.stored.thumbnail}


async def test_the_sweep_goes_on_after_any_failure(
    engine: AsyncEngine, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "SECOND_ROUND_SECONDS", 0.01)
    rounds: list[int] = []

    async def fail(*_: object) -> bool:
        rounds.append(1)
        raise RuntimeError("something unforeseen")

    monkeypatch.setattr(sweep_module, "take_turn", fail)
    monkeypatch.setattr(sweep_module, "ROUND_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sweep_regularly(engine, storage), 1)
    assert len(rounds) > 1
