"""Entries that are marked count as unknown until a model has answered again, in every process and on every database."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.tables.classification import CachedImage
from app.language.accept import Language
from app.services.cache import reclassification
from app.services.cache.reclassification import Selection
from tests.support.cache_processes import IMAGE, LOCAL, result, save, service, started
from tests.support.corrections import correct

NEW = "new-model"


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclassification, "COUNT_RANGE", 3)
    monkeypatch.setattr(reclassification, "MARK_RANGE", 2)


async def fill(engine: AsyncEngine) -> None:
    """Entries of two paid models, the local one and a person, in both languages."""
    cache = service(engine)
    rows = [
        ("1", ModelResult(Category.PETS, 0.95, "一只猫", {}), "old-model"),
        ("2", ModelResult(Category.OTHER, 0.55, "A box on a table", {}), "old-model"),
        ("3", ModelResult(Category.OTHER, 0.9, "桌上的盒子", {}), "old-model"),
        ("4", ModelResult(Category.FOODS, 0.4, "Noodles", {}), NEW),
        ("5", ModelResult(Category.FOODS, 0.5, None, {}), NEW),
        ("7", ModelResult(Category.PETS, 0.9, "一条狗", {}), "old-model"),
    ]
    for digit, answer, model in rows:
        await save(cache, digit * 64, answer, model=model)
    await save(service(engine, local=True), "6" * 64, result(Category.PETS), model=LOCAL)
    await correct(cache, "7" * 64, Category.OTHER, None)


async def models(engine: AsyncEngine) -> dict[str, str]:
    async with engine.connect() as connection:
        rows = await connection.execute(select(CachedImage.image_hash, CachedImage.model_used))
        return {image_hash[0]: model for image_hash, model in rows}


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(NEW), "123"),
        (Selection(NEW, category=Category.OTHER), "23"),
        (Selection(NEW, category=Category.OTHER, below=0.6), "2"),
        (Selection(NEW, below=0.6, made_by=NEW), "45"),
        (Selection(NEW, made_by="nobody"), ""),
        (Selection(NEW, language=Language.CHINESE), "24"),
        (Selection("old-model", language=Language.ENGLISH), "13"),
        # The local model is asked again about its own, and about those of a paid one only if that is named.
        (Selection("local/other/2"), "6"),
        (Selection("local/other/2", made_by="old-model"), "123"),
    ],
)
async def test_what_is_chosen_is_marked_and_can_be_taken_back(
    selection: Selection, chosen: str, engine: AsyncEngine
) -> None:
    await fill(engine)
    before = await models(engine)
    assert (await reclassification.count(engine, selection)).total() == len(chosen)
    parts: list[int] = []
    assert await reclassification.mark(engine, selection, parts.append) == len(chosen) == sum(parts)
    now = await models(engine)
    assert "".join(sorted(digit for digit in now if now[digit] != before[digit])) == chosen
    assert all(now[digit] == f"again/{before[digit]}" for digit in chosen)
    # They are not chosen again.
    assert (await reclassification.count(engine, selection)).total() == 0
    assert await reclassification.unmark(engine, parts.append) == len(chosen)
    assert await models(engine) == before


async def test_every_process_misses_a_marked_entry_until_a_model_has_answered(engine: AsyncEngine) -> None:
    one, other = await started(engine), await started(engine, local=True)
    old = await save(one.cache, IMAGE, result(Category.OTHER), model="m" * MODEL_NAME_MAX_LENGTH)
    assert await one.cache.get(IMAGE) == await other.cache.get(IMAGE) == old
    hit_at = datetime(2026, 1, 2, tzinfo=UTC)
    async with engine.begin() as connection:
        await connection.execute(update(CachedImage).values(hit_count=41, last_hit_at=hit_at))
    assert await reclassification.mark(engine, Selection(NEW), lambda _: None) == 1
    async with engine.connect() as connection:
        assert await connection.scalar(select(CachedImage.last_hit_at)) == hit_at
    for process in (one, other):
        await process.watch.look()
        assert process.cache.peek(IMAGE) is None
        assert await process.cache.get(IMAGE) is None
    new = await save(one.cache, IMAGE, result(Category.FOODS), model=NEW)
    assert (new.category, new.model) == (Category.FOODS, NEW)
    await other.watch.look()
    assert await other.cache.get(IMAGE) == new
    async with engine.connect() as connection:
        assert await connection.scalar(select(CachedImage.hit_count)) == 41


async def test_the_local_model_replaces_a_marked_entry_only_as_the_configured_one(engine: AsyncEngine) -> None:
    await save(service(engine), IMAGE, result(Category.OTHER), model="old-model")
    await reclassification.mark(engine, Selection(NEW), lambda _: None)
    # As a fallback it answers this once.
    answered = await save(service(engine), IMAGE, result(Category.PETS), model=LOCAL)
    assert answered.category is Category.PETS
    assert await models(engine) == {IMAGE[0]: "again/old-model"}
    assert await service(engine).get(IMAGE) is None
    answered = await save(service(engine, local=True), IMAGE, result(Category.PETS), model=LOCAL)
    assert await service(engine, local=True).get(IMAGE) == answered
    assert await models(engine) == {IMAGE[0]: LOCAL}


async def test_a_person_may_correct_a_marked_entry(engine: AsyncEngine) -> None:
    await save(service(engine), IMAGE, result(Category.OTHER), model="old-model")
    await reclassification.mark(engine, Selection(NEW), lambda _: None)
    corrected = await correct(service(engine), IMAGE, Category.PETS, None)
    assert await service(engine).get(IMAGE) == corrected


@pytest.mark.parametrize(
    ("model", "language", "offer"),
    [
        ("old-model", Language.CHINESE, None),
        ("newest", Language.CHINESE, "--model newest"),
        ("old-model", Language.ENGLISH, "--language en"),
        # Its entries do not count for these, and theirs are good enough for it.
        (LOCAL, Language.CHINESE, None),
    ],
)
async def test_a_changed_model_or_language_is_noticed(
    model: str, language: Language, offer: str | None, engine: AsyncEngine
) -> None:
    assert await reclassification.what_has_changed(engine, model, language) is None
    for digit in "12":
        await save(service(engine), digit * 64, ModelResult(Category.PETS, 0.9, "一只猫", {}), model="old-model")
    command = await reclassification.what_has_changed(engine, model, language)
    assert command == (None if offer is None else f"image-classifier reclassify {offer}")


async def test_what_an_answer_has_cost_is_told_from_the_newest(engine: AsyncEngine) -> None:
    assert await reclassification.average_cost_micros(engine, NEW) is None
    await save(service(engine), IMAGE, result(Category.PETS), model=NEW)
    assert await reclassification.average_cost_micros(engine, NEW) == 0
