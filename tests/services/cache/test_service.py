"""Valid entries stay as they are; those of the local demo model give way to others. Memory saves queries."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.clock import utc_now
from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.pipeline import Rows, run
from app.database.statements import Statement
from app.database.tables.classification import CachedImage
from app.errors import DatabaseUnavailable
from app.services.cache import service as cache_module
from tests.support.cache_processes import IMAGE, LOCAL, result, save, service, started


async def test_what_is_saved_is_found_as_it_was_answered(engine: AsyncEngine) -> None:
    cache = service(engine)
    assert await cache.get(IMAGE) is None
    saved = await save(cache, IMAGE, result(Category.FOODS), model="m" * MODEL_NAME_MAX_LENGTH)
    assert saved.confidence == 0.8765
    assert await cache.get(IMAGE) == saved
    assert await cache.get_many([IMAGE, "b" * 64, IMAGE]) == {IMAGE: saved}
    async with engine.connect() as connection:
        row = (await connection.execute(select(CachedImage))).one()
    assert (row.hit_count, row.model_used, row.model_response) == (1, "m" * MODEL_NAME_MAX_LENGTH, {"answer": "foods"})


async def test_the_first_of_many_savers_wins_and_all_answer_the_same(engine: AsyncEngine) -> None:
    cache = service(engine)
    categories = list(Category) * 3
    saved = await asyncio.gather(*(save(cache, IMAGE, result(category), model="m") for category in categories))
    assert len({entry.category for entry in saved}) == 1
    assert await cache.get(IMAGE) == saved[0]
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(CachedImage)) == 1


async def test_a_local_entry_counts_only_for_the_local_model(engine: AsyncEngine) -> None:
    entry = await save(service(engine, local=True), IMAGE, result(Category.PETS), model=LOCAL)
    assert await service(engine, local=True).get(IMAGE) == entry
    assert await service(engine).get(IMAGE) is None
    assert await service(engine).get_many([IMAGE]) == {}


async def test_another_model_replaces_a_local_entry_and_stays(engine: AsyncEngine) -> None:
    await save(service(engine, local=True), IMAGE, result(Category.PETS), model=LOCAL)
    better = await save(service(engine), IMAGE, result(Category.FOODS), model="gpt")
    assert better.category is Category.FOODS
    assert await service(engine).get(IMAGE) == better
    # Back on the local model, the better entry still counts and is not overwritten.
    assert await service(engine, local=True).get(IMAGE) == better
    again = await save(service(engine, local=True), IMAGE, result(Category.PETS), model=LOCAL)
    assert again == better


async def test_a_model_named_like_the_prefix_is_not_taken_for_local(engine: AsyncEngine) -> None:
    entry = await save(service(engine), IMAGE, result(Category.PETS), model="local_llava")
    assert await service(engine).get(IMAGE) == entry


async def test_texts_of_all_kinds_survive(engine: AsyncEngine) -> None:
    strange = "一只猫 🐈 with 'quotes', \\backslash, %s and \n a line"
    await save(service(engine), IMAGE, ModelResult(Category.PETS, 1.0, strange, {"t": strange}), model="m")
    entry = await service(engine).get(IMAGE)
    assert entry is not None
    assert (entry.description, entry.confidence) == (strange, 1.0)


# ----- memory and groups


@contextmanager
def selects(engine: AsyncEngine) -> Iterator[list[str]]:
    """The look-ups of entries that are sent in the block."""
    seen: list[str] = []

    async def note(used: AsyncEngine, statements: Sequence[Statement], *, writes: bool) -> list[Rows]:
        if used is engine:
            seen.extend(statement.text for statement in statements if statement.text.startswith("SELECT"))
        return await run(used, statements, writes=writes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "run", note)
        yield seen


async def test_memory_answers_without_a_query(engine: AsyncEngine) -> None:
    one, other = await started(engine), await started(engine)
    saved = await save(one.cache, IMAGE, result(Category.FOODS), model="m")
    with selects(engine) as seen:
        assert one.cache.peek(IMAGE) == saved
        assert await one.cache.get(IMAGE) == saved
        assert await one.cache.get_many([IMAGE, IMAGE]) == {IMAGE: saved}
        assert seen == []
        # Another process reads it once.
        assert other.cache.peek(IMAGE) is None
        assert await other.cache.get(IMAGE) == saved
        assert await other.cache.get(IMAGE) == saved
        assert len(seen) == 1
        # Its absence is never remembered.
        assert await one.cache.get("b" * 64) is None
        assert await one.cache.get("b" * 64) is None
        assert len(seen) == 3


async def test_many_look_ups_share_few_queries(engine: AsyncEngine) -> None:
    hashes = [f"{number:064x}" for number in range(300)]
    async with engine.begin() as connection:
        entry = {"category": "pets", "confidence": 1, "model_used": "m", "hit_count": 1}
        times = {"created_at": utc_now(), "last_hit_at": utc_now()}
        await connection.execute(insert(CachedImage), [{"image_hash": each, **entry, **times} for each in hashes[::2]])
    process = await started(engine)
    with selects(engine) as seen:
        answers = await asyncio.gather(*(process.cache.get(each) for each in hashes * 3))
    assert [answer is not None for answer in answers] == [True, False] * 450
    # 900 look-ups of 300 hashes, 200 in a query; those that queue beyond a full group may share no more.
    assert len(seen) <= 5
    assert len(process.memory) == 150


async def test_a_failed_query_is_the_databases_error_and_the_next_one_works(engine: AsyncEngine) -> None:
    process = await started(engine)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE image_classification_cache RENAME TO cache_away"))
    try:
        answers = await asyncio.gather(*(process.cache.get(str(n) * 64) for n in range(5)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {DatabaseUnavailable}
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE cache_away RENAME TO image_classification_cache"))
    assert await process.cache.get(IMAGE) is None


async def test_the_answer_of_a_better_model_reaches_the_memory_of_processes_on_the_local_one(
    engine: AsyncEngine,
) -> None:
    demo, other, real = await started(engine, local=True), await started(engine, local=True), await started(engine)
    provisional = await save(demo.cache, IMAGE, result(Category.PETS), model=LOCAL)
    assert await other.cache.get(IMAGE) == provisional
    assert demo.cache.peek(IMAGE) == other.cache.peek(IMAGE) == provisional
    assert await real.cache.get(IMAGE) is None
    better = await save(real.cache, IMAGE, result(Category.FOODS), model="gpt")
    for process in (demo, other):
        await process.watch.look()
        assert process.cache.peek(IMAGE) is None
        assert await process.cache.get(IMAGE) == better
