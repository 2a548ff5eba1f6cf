"""Neighbours in the database: which entry answers, and what becomes of its aliases."""

import random
from collections.abc import Sequence

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import LOCAL_MODEL_PREFIX, MARKED_MODEL_PREFIX
from app.clock import utc_now
from app.database.pipeline import run
from app.database.tables.near_duplicates import CacheAlias, PerceptualHash
from app.errors import CacheEntryNotFound
from app.photo.perceptual_hash import BITS
from app.services.cache.entry import MANUAL_MODEL, CachedResult
from app.services.cache.rows import insert_entry
from app.services.cache.service import CacheService
from app.services.near_duplicates import service as near_duplicates_service
from app.services.near_duplicates.bands import MAX_DISTANCE
from app.services.near_duplicates.rows import Neighbour, insert_hash
from app.services.near_duplicates.service import LOOK_UPS_PER_TRIP, NearDuplicates
from tests.services.near_duplicates.test_bands import changed
from tests.support.corrections import correct, remove
from tests.support.databases import rollups_for

ENTRY = CachedResult(Category.PETS, 0.9, "a cat", "m", 10_000)
VALUE = 0x9F17_4C2B_E0A8_5D63


def photo(number: int) -> str:
    return f"{number:064x}"


def near_duplicates_on(
    engine: AsyncEngine, *, accepts_provisional: bool = False
) -> tuple[NearDuplicates, CacheService]:
    rollups = rollups_for(engine)
    cache = CacheService(engine, accepts_provisional=accepts_provisional, rollups=rollups)
    return NearDuplicates(engine, cache=cache, rollups=rollups), cache


async def keep(engine: AsyncEngine, number: int, value: int | None, entry: CachedResult = ENTRY) -> None:
    statements = [insert_entry(photo(number), entry, {}, utc_now()), rollups_for(engine).entry_added()]
    if value is not None:
        statements.append(insert_hash(photo(number), value))
    await run(engine, statements, writes=True)


async def found(near: NearDuplicates, value: int) -> Neighbour:
    neighbour = await near.find(value)
    assert neighbour is not None
    return neighbour


async def alias_of(near: NearDuplicates, number: int, distance: int) -> CachedResult:
    neighbour = await found(near, changed(VALUE, distance))
    entry, is_stored = await near.adopt(photo(number), neighbour)
    assert is_stored
    assert entry is not None
    return entry


async def totals(engine: AsyncEngine) -> Sequence[object]:
    query = text("SELECT SUM(images), SUM(hits) FROM stats_cache")
    async with engine.connect() as connection:
        return tuple(map(int, (await connection.execute(query)).one()))


async def test_it_finds_what_a_scan_finds(engine: AsyncEngine) -> None:
    chance = random.Random(4)
    values = {number: chance.getrandbits(BITS) for number in range(1, 40)}
    values |= {100 + distance: changed(VALUE, distance) for distance in range(3, 15)}
    for number, value in values.items():
        await keep(engine, number, value)
    near, _ = near_duplicates_on(engine)
    for distance in range(MAX_DISTANCE + 4):
        wanted = changed(VALUE, distance)
        nearest = min(((wanted ^ value).bit_count(), number) for number, value in values.items())
        neighbour = await near.find(wanted)
        if nearest[0] > MAX_DISTANCE:
            assert neighbour is None
        else:
            assert neighbour is not None
            assert (neighbour.distance, neighbour.image_hash) == (nearest[0], photo(nearest[1]))


async def test_many_are_found_in_several_trips(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates_service, "LOOK_UP_SECONDS", 60.0)
    chance = random.Random(5)
    wanted = [chance.getrandbits(BITS) for _ in range(2 * LOOK_UPS_PER_TRIP + 1)]
    for number, value in enumerate(wanted):
        if number % 3:
            await keep(engine, number, changed(value, 5))
    near, _ = near_duplicates_on(engine)
    neighbours = await near.find_many(wanted)
    assert {value: (neighbour.image_hash, neighbour.distance) for value, neighbour in neighbours.items()} == {
        value: (photo(number), 5) for number, value in enumerate(wanted) if number % 3
    }
    assert await near.find_many([]) == {}


@pytest.mark.parametrize("distance", [0, 4, 5, 8])
async def test_a_description_is_taken_along_only_where_the_picture_is_the_same(
    engine: AsyncEngine, distance: int
) -> None:
    await keep(engine, 1, VALUE)
    near, cache = near_duplicates_on(engine)
    entry = await alias_of(near, 2, distance)
    assert entry.description == (ENTRY.description if distance <= 4 else None)
    assert await cache.get(photo(2)) == entry
    assert (entry.category, entry.confidence, entry.model, entry.cost_micros) == (Category.PETS, 0.9, "m", 10_000)


@pytest.mark.parametrize(
    "entry",
    [
        CachedResult(Category.IDCARD, 0.99, None, "m"),
        CachedResult(Category.FOODS, 0.5999, None, "m"),
        CachedResult(Category.FOODS, 0.99, None, f"{LOCAL_MODEL_PREFIX}demo"),
        CachedResult(Category.FOODS, 0.99, None, f"{MARKED_MODEL_PREFIX}m"),
    ],
)
async def test_what_may_not_be_repeated_answers_for_no_other_photo(engine: AsyncEngine, entry: CachedResult) -> None:
    await keep(engine, 1, VALUE, entry)
    near, _ = near_duplicates_on(engine)
    assert await near.find(VALUE) is None


async def test_an_entry_of_the_local_model_answers_where_that_is_the_configured_one(engine: AsyncEngine) -> None:
    local = CachedResult(Category.FOODS, 0.9, None, f"{LOCAL_MODEL_PREFIX}demo")
    await keep(engine, 1, VALUE, local)
    near, _ = near_duplicates_on(engine, accepts_provisional=True)
    assert (await found(near, VALUE)).entry == local


async def test_neighbours_that_do_not_agree_leave_the_answer_to_the_model(engine: AsyncEngine) -> None:
    near, _ = near_duplicates_on(engine)
    await keep(engine, 1, VALUE)
    await keep(engine, 2, changed(VALUE, 6))
    assert (await found(near, VALUE)).image_hash == photo(1)
    await keep(engine, 3, changed(VALUE, 8), CachedResult(Category.FOODS, 0.9, None, "m"))
    assert await near.find(VALUE) is None


async def test_an_alias_answers_for_no_third_photo(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, _ = near_duplicates_on(engine)
    await alias_of(near, 2, 8)
    assert (await found(near, changed(VALUE, 2))).image_hash == photo(1)
    async with engine.connect() as connection:
        assert len((await connection.execute(select(PerceptualHash))).all()) == 1


async def test_a_correction_reaches_the_aliases(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, cache = near_duplicates_on(engine)
    await alias_of(near, 2, 2)
    await alias_of(near, 3, 8)
    await correct(cache, photo(1), Category.FOODS, "a soup")
    corrected = CachedResult(Category.FOODS, 1.0, "a soup", MANUAL_MODEL, 10_000)
    assert await cache.get(photo(1)) == corrected
    assert await cache.get(photo(2)) == corrected
    assert await cache.get(photo(3)) == CachedResult(Category.FOODS, 1.0, None, MANUAL_MODEL, 10_000)
    async with engine.connect() as connection:
        changes = await connection.execute(text("SELECT image_hash, by_hand FROM cache_change ORDER BY image_hash"))
        assert [tuple(row) for row in changes] == [(photo(number), 1) for number in (1, 2, 3)]


async def test_an_alias_that_is_corrected_goes_its_own_way(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, cache = near_duplicates_on(engine)
    await alias_of(near, 2, 2)
    await correct(cache, photo(2), Category.FOODS, None)
    await correct(cache, photo(1), Category.OTHER, None)
    assert [(await cache.get(photo(number)) or ENTRY).category for number in (1, 2)] == [Category.OTHER, Category.FOODS]


@pytest.mark.parametrize("removed", [1, 2])
async def test_the_original_and_its_aliases_are_removed_together(engine: AsyncEngine, removed: int) -> None:
    await keep(engine, 1, VALUE)
    await keep(engine, 9, None)
    near, cache = near_duplicates_on(engine)
    await alias_of(near, 2, 2)
    await alias_of(near, 3, 8)
    assert await totals(engine) == (4, 4)
    await remove(cache, photo(removed))
    assert set(await cache.get_many([photo(number) for number in (1, 2, 3, 9)])) == {photo(9)}
    assert await totals(engine) == (1, 1)
    assert await near.find(VALUE) is None
    with pytest.raises(CacheEntryNotFound):
        await remove(cache, photo(3))
    async with engine.connect() as connection:
        for table in (PerceptualHash, CacheAlias):
            assert (await connection.execute(select(table))).all() == []


async def test_a_photo_that_turns_out_to_be_a_document_has_no_aliases(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, cache = near_duplicates_on(engine)
    await alias_of(near, 2, 2)
    await correct(cache, photo(1), Category.IDCARD, None)
    assert await cache.get(photo(2)) is None
    assert await totals(engine) == (1, 1)
    async with engine.connect() as connection:
        assert (await connection.execute(select(PerceptualHash))).all() == []


async def test_a_neighbour_that_was_changed_meanwhile(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, cache = near_duplicates_on(engine)
    neighbour = await found(near, VALUE)
    await correct(cache, photo(1), Category.FOODS, "a soup")
    entry, _ = await near.adopt(photo(2), neighbour)
    assert entry == CachedResult(Category.FOODS, 1.0, "a soup", MANUAL_MODEL, 10_000)
    await remove(cache, photo(1))
    assert await near.adopt(photo(3), neighbour) == (None, False)
    assert await cache.get(photo(3)) is None


async def test_another_process_has_stored_an_answer_of_its_own(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, cache = near_duplicates_on(engine)
    await keep(engine, 2, None, CachedResult(Category.FOODS, 0.7, None, "m"))
    await near.adopt(photo(2), await found(near, VALUE))
    kept = await cache.get(photo(2))
    assert kept is not None
    assert kept.category is Category.FOODS
    assert await totals(engine) == (2, 2)


async def test_a_provisional_entry_becomes_an_alias(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, cache = near_duplicates_on(engine)
    await keep(engine, 2, changed(VALUE, 2), CachedResult(Category.FOODS, 0.9, None, f"{LOCAL_MODEL_PREFIX}demo"))
    await alias_of(near, 2, 2)
    assert await cache.get(photo(2)) == ENTRY
    assert await totals(engine) == (2, 2)
    async with engine.connect() as connection:
        assert len((await connection.execute(select(PerceptualHash))).all()) == 1


async def test_emptying_the_cache_empties_what_belongs_to_it(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, _ = near_duplicates_on(engine)
    await alias_of(near, 2, 2)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM image_classification_cache"))
        for table in (PerceptualHash, CacheAlias):
            assert (await connection.execute(select(table))).all() == []


async def test_a_database_that_fails_is_no_neighbour(engine: AsyncEngine) -> None:
    await keep(engine, 1, VALUE)
    near, _ = near_duplicates_on(engine)
    neighbour = await found(near, VALUE)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE perceptual_hash RENAME TO hash_away"))
        await connection.execute(text("ALTER TABLE cache_alias RENAME TO alias_away"))
    try:
        assert await near.find(VALUE) is None
        # What was found is right all the same.
        assert await near.adopt(photo(2), neighbour) == (ENTRY, False)
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE hash_away RENAME TO perceptual_hash"))
            await connection.execute(text("ALTER TABLE alias_away RENAME TO cache_alias"))
