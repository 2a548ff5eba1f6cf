"""Entries never change once they count for everybody; those of the local demo model give way to any other."""

import asyncio
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.database.tables import CachedImage
from app.services.cache import CacheService
from app.services.rollups import Rollups

IMAGE = "a" * 64
LOCAL = "local/efficientnet-lite2/1"


def result(category: Category, confidence: float = 0.87654321) -> ModelResult:
    return ModelResult(category, confidence, f"a photo of {category}", {"answer": category.value})


def service(engine: AsyncEngine, *, local: bool = False) -> CacheService:
    rollups = Rollups(engine.dialect.name, ZoneInfo("UTC"))
    return CacheService(engine, accepts_provisional=local, rollups=rollups)


async def test_what_is_saved_is_found_as_it_was_answered(engine: AsyncEngine) -> None:
    cache = service(engine)
    assert await cache.get(IMAGE) is None
    saved = await cache.save(IMAGE, result(Category.FOODS), model="m" * 80)
    assert saved.confidence == 0.8765
    assert await cache.get(IMAGE) == saved
    assert await cache.get_many([IMAGE, "b" * 64, IMAGE]) == {IMAGE: saved}
    async with engine.connect() as connection:
        row = (await connection.execute(select(CachedImage))).one()
    assert (row.hit_count, row.model_used, row.model_response) == (1, "m" * 50, {"answer": "foods"})


async def test_the_first_of_many_savers_wins_and_all_answer_the_same(engine: AsyncEngine) -> None:
    cache = service(engine)
    categories = list(Category) * 3
    saved = await asyncio.gather(*(cache.save(IMAGE, result(category), model="m") for category in categories))
    assert len({entry.category for entry in saved}) == 1
    assert await cache.get(IMAGE) == saved[0]
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(CachedImage)) == 1


async def test_a_local_entry_counts_only_for_the_local_model(engine: AsyncEngine) -> None:
    entry = await service(engine, local=True).save(IMAGE, result(Category.PETS), model=LOCAL)
    assert await service(engine, local=True).get(IMAGE) == entry
    assert await service(engine).get(IMAGE) is None
    assert await service(engine).get_many([IMAGE]) == {}


async def test_another_model_replaces_a_local_entry_and_stays(engine: AsyncEngine) -> None:
    await service(engine, local=True).save(IMAGE, result(Category.PETS), model=LOCAL)
    better = await service(engine).save(IMAGE, result(Category.FOODS), model="gpt")
    assert better.category is Category.FOODS
    assert await service(engine).get(IMAGE) == better
    # Back on the local model, the better entry still counts and is not overwritten.
    assert await service(engine, local=True).get(IMAGE) == better
    again = await service(engine, local=True).save(IMAGE, result(Category.PETS), model=LOCAL)
    assert again == better


async def test_a_model_named_like_the_prefix_is_not_taken_for_local(engine: AsyncEngine) -> None:
    entry = await service(engine).save(IMAGE, result(Category.PETS), model="local_llava")
    assert await service(engine).get(IMAGE) == entry


async def test_texts_of_all_kinds_survive(engine: AsyncEngine) -> None:
    strange = "一只猫 🐈 with 'quotes', \\backslash, %s and \n a line"
    await service(engine).save(IMAGE, ModelResult(Category.PETS, 1.0, strange, {"t": strange}), model="m")
    entry = await service(engine).get(IMAGE)
    assert entry is not None
    assert (entry.description, entry.confidence) == (strange, 1.0)
