"""Entries change only by hand, and then wherever copies of them are."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clock import utc_now
from app.database.tables.classification import CacheChange, CachedImage
from app.errors import CacheEntryNotFound
from app.services.cache import tiers
from app.services.cache.invalidation import CHANGES_KEPT
from app.services.cache.tiers import STALE_MAX_SECONDS, TRUST_SECONDS
from tests.support.cache_processes import IMAGE, LOCAL, Process, result, save, service, started
from tests.support.corrections import correct, remove


async def row(engine: AsyncEngine, image_hash: str = IMAGE) -> CachedImage | None:
    async with engine.connect() as connection:
        query = select(CachedImage.__table__).where(CachedImage.image_hash == image_hash)
        found: CachedImage | None = (await connection.execute(query)).one_or_none()  # type: ignore[assignment]
        return found


async def test_a_corrected_entry_keeps_its_hits_and_no_model_replaces_it(engine: AsyncEngine) -> None:
    cache = service(engine)
    await save(cache, IMAGE, result(Category.FOODS), model="m")
    hit_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with engine.begin() as connection:
        await connection.execute(update(CachedImage).values(hit_count=7, last_hit_at=hit_at))
    corrected = await correct(cache, IMAGE, Category.PETS, "一只猫")
    assert (corrected.category, corrected.confidence, corrected.description) == (Category.PETS, 1.0, "一只猫")
    assert await cache.get(IMAGE) == corrected
    assert await save(cache, IMAGE, result(Category.OTHER), model="m") == corrected
    found = await row(engine)
    assert found is not None
    assert (found.hit_count, found.last_hit_at, found.model_used, found.model_response) == (
        7,
        hit_at,
        "manual",
        {"confidence_source": "corrected"},
    )


async def test_a_corrected_local_entry_counts_for_everybody(engine: AsyncEngine) -> None:
    await save(service(engine, local=True), IMAGE, result(Category.FOODS), model=LOCAL)
    cache = service(engine)
    assert await cache.get(IMAGE) is None
    corrected = await correct(cache, IMAGE, Category.PETS, None)
    assert await cache.get(IMAGE) == corrected
    assert await save(cache, IMAGE, result(Category.OTHER), model="m") == corrected


async def test_a_removed_entry_is_unknown_until_a_model_answers_again(engine: AsyncEngine) -> None:
    process = await started(engine)
    await save(process.cache, IMAGE, result(Category.FOODS), model="m")
    await remove(process.cache, IMAGE)
    assert await process.cache.get(IMAGE) is None
    with pytest.raises(CacheEntryNotFound):
        await remove(process.cache, IMAGE)
    with pytest.raises(CacheEntryNotFound):
        await correct(process.cache, IMAGE, Category.PETS, None)
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(CacheChange)) == 1
    again = await save(process.cache, IMAGE, result(Category.PETS), model="m")
    assert await process.cache.get(IMAGE) == again


async def test_simultaneous_changes_are_all_made(engine: AsyncEngine) -> None:
    cache = service(engine)
    hashes = [f"{number:064x}" for number in range(8)]
    for each in hashes:
        await save(cache, each, result(Category.FOODS), model="m")
    await asyncio.gather(*(correct(cache, each, Category.PETS, None) for each in hashes))
    removals = await asyncio.gather(*(remove(cache, each) for each in hashes * 2), return_exceptions=True)
    assert sum(removal is None for removal in removals) == len(hashes)
    assert await cache.get_many(hashes) == {}


async def test_other_processes_learn_of_a_change_with_their_next_look(engine: AsyncEngine) -> None:
    one, other = await started(engine), await started(engine)
    await save(one.cache, IMAGE, result(Category.FOODS), model="m")
    await other.cache.get(IMAGE)
    corrected = await correct(one.cache, IMAGE, Category.PETS, None)
    assert one.cache.peek(IMAGE) is None
    assert await one.cache.get(IMAGE) == corrected
    assert other.cache.peek(IMAGE) is not None
    await other.watch.look()
    assert other.cache.peek(IMAGE) is None
    assert await other.cache.get(IMAGE) == corrected
    # For a minute it is answered from the database.
    assert other.cache.peek(IMAGE) is None


async def test_what_was_read_before_a_change_is_not_kept_after_it(engine: AsyncEngine) -> None:
    one, other = await started(engine), await started(engine)
    old = await save(one.cache, IMAGE, result(Category.FOODS), model="m")
    await remove(one.cache, IMAGE)
    await one.copies.keep({IMAGE: old})
    assert one.cache.peek(IMAGE) is None
    # A slow reader in a process that does not know yet is caught by its next look.
    await other.copies.keep({IMAGE: old})
    assert other.cache.peek(IMAGE) == old
    await other.watch.look()
    await other.copies.keep({IMAGE: old})
    assert other.cache.peek(IMAGE) is None


async def test_copies_count_only_while_the_watch_works(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    fake_time = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr(tiers, "time", fake_time)
    monkeypatch.setattr("app.services.cache.invalidation.time", fake_time)
    process = Process(engine, trust_seconds=TRUST_SECONDS)
    saved = await save(process.cache, IMAGE, result(Category.FOODS), model="m")
    # Not before the first look.
    assert (process.cache.peek(IMAGE), len(process.memory)) == (None, 0)
    await process.watch.look()
    assert await process.cache.get(IMAGE) == saved
    assert process.cache.peek(IMAGE) == saved
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE cache_change RENAME TO change_away"))
    try:
        await process.watch.look()
        clock.now += TRUST_SECONDS - 0.1
        await process.watch.look()
        assert process.cache.peek(IMAGE) == saved
        clock.now += 0.2
        # Without a further look that failed it would have stood still itself.
        assert process.cache.peek(IMAGE) == replace(saved, is_stale=True)
        clock.now += STALE_MAX_SECONDS - TRUST_SECONDS - 0.2
        assert process.cache.peek(IMAGE) == replace(saved, is_stale=True)
        clock.now += 0.2
        await process.watch.look()
        assert process.cache.peek(IMAGE) is None
        assert await process.cache.get(IMAGE) == saved
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE change_away RENAME TO cache_change"))
    await process.watch.look()
    assert process.cache.peek(IMAGE) == saved


async def test_a_process_that_stood_still_asks_the_database(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1000.0)
    fake_time = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr(tiers, "time", fake_time)
    monkeypatch.setattr("app.services.cache.invalidation.time", fake_time)
    process = Process(engine, trust_seconds=TRUST_SECONDS)
    await process.watch.look()
    saved = await save(process.cache, IMAGE, result(Category.FOODS), model="m")
    assert process.cache.peek(IMAGE) == saved
    clock.now += TRUST_SECONDS
    # No look has failed: it is this process that did not look.
    assert process.cache.peek(IMAGE) is None

    async def stand_still(*arguments: object, **options: object) -> None:
        clock.now += 60
        raise TimeoutError

    # Nor has one whose time ran out while the process stood still.
    with monkeypatch.context() as patch:
        patch.setattr("app.services.cache.invalidation.read", stand_still)
        await process.watch.look()
    assert process.cache.peek(IMAGE) is None

    async def fail(*arguments: object, **options: object) -> None:
        clock.now += 2
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr("app.services.cache.invalidation.read", fail)
        await process.watch.look()
    assert process.cache.peek(IMAGE) == replace(saved, is_stale=True)
    await process.watch.look()
    assert process.cache.peek(IMAGE) == saved


async def record_change(engine: AsyncEngine, image_hash: str, *, ago: timedelta) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(CacheChange).values(image_hash=image_hash, changed_at=utc_now() - ago))


async def test_a_change_during_an_outage_is_learnt_after_it(engine: AsyncEngine) -> None:
    process = await started(engine)
    saved = await save(process.cache, IMAGE, result(Category.FOODS), model="m")
    await record_change(engine, IMAGE, ago=timedelta(minutes=5))
    await process.watch.look()
    assert process.cache.peek(IMAGE) == saved
    process.watch._last_time = utc_now() - timedelta(minutes=10)
    await process.watch.look()
    assert process.cache.peek(IMAGE) is None


async def test_an_outage_longer_than_changes_are_kept_empties_memory(engine: AsyncEngine) -> None:
    process = await started(engine)
    await save(process.cache, IMAGE, result(Category.FOODS), model="m")
    process.watch._last_time = utc_now() - CHANGES_KEPT
    await process.watch.look()
    assert len(process.memory) == 0
    assert await process.cache.get(IMAGE) == process.cache.peek(IMAGE) is not None


async def test_more_changes_than_can_be_remembered_empty_memory(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "MAX_CHANGES", 3)
    monkeypatch.setattr("app.services.cache.invalidation.MAX_CHANGES", 3)
    process = await started(engine)
    await save(process.cache, IMAGE, result(Category.FOODS), model="m")
    for number in range(4):
        await record_change(engine, f"{number:064x}", ago=timedelta(seconds=number))
    await process.watch.look()
    assert (len(process.memory), process.cache.peek(IMAGE)) == (0, None)
    assert await process.cache.get(IMAGE) is not None
    assert process.cache.peek(IMAGE) is None


async def test_old_changes_are_deleted_with_the_next_one(engine: AsyncEngine) -> None:
    cache = service(engine)
    await save(cache, IMAGE, result(Category.FOODS), model="m")
    # A first answer of a day ago may not be given again after such a change.
    for hours in (24, 26, 100):
        await record_change(engine, f"{hours:064x}", ago=timedelta(hours=hours))
    await remove(cache, IMAGE)
    async with engine.connect() as connection:
        left = (await connection.scalars(select(CacheChange.image_hash).order_by(CacheChange.id))).all()
    assert left == [f"{24:064x}", IMAGE]
