"""Valid entries change only by hand, wherever copies of them are; those of the local demo model give way to others."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.clock import utc_now
from app.database.packets import Rows, run
from app.database.statements import Statement
from app.database.tables import CacheChange, CachedImage
from app.errors import CacheEntryNotFound, DatabaseUnavailable
from app.services import cache as cache_module
from app.services import cache_copies
from app.services.cache import CacheService
from app.services.cache_copies import TRUST_SECONDS, CacheCopies
from app.services.cache_watch import CacheWatch
from app.services.memory_cache import MemoryCache
from tests.databases import rollups_for

IMAGE = "a" * 64
LOCAL = "local/efficientnet-lite2/1"


def result(category: Category, confidence: float = 0.87654321) -> ModelResult:
    return ModelResult(category, confidence, f"a photo of {category}", {"answer": category.value})


def service(engine: AsyncEngine, *, local: bool = False) -> CacheService:
    return CacheService(engine, accepts_provisional=local, rollups=rollups_for(engine))


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


# ----- memory and groups


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may let more than the real five seconds pass between two lines of a test.
    monkeypatch.setattr(cache_copies, "TRUST_SECONDS", 600.0)


class Process:
    """What one process of the service has: its copies, its watch, its cache."""

    def __init__(self, engine: AsyncEngine, *, local: bool = False) -> None:
        self.memory = MemoryCache(1000)
        self.copies = CacheCopies(memory=self.memory)
        self.watch = CacheWatch(engine, self.copies)
        self.cache = CacheService(engine, accepts_provisional=local, rollups=rollups_for(engine), copies=self.copies)


async def started(engine: AsyncEngine, *, local: bool = False) -> Process:
    process = Process(engine, local=local)
    await process.watch.look()
    return process


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
    saved = await one.cache.save(IMAGE, result(Category.FOODS), model="m")
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
    provisional = await demo.cache.save(IMAGE, result(Category.PETS), model=LOCAL)
    assert await other.cache.get(IMAGE) == provisional
    assert demo.cache.peek(IMAGE) == other.cache.peek(IMAGE) == provisional
    assert await real.cache.get(IMAGE) is None
    better = await real.cache.save(IMAGE, result(Category.FOODS), model="gpt")
    for process in (demo, other):
        await process.watch.look()
        assert process.cache.peek(IMAGE) is None
        assert await process.cache.get(IMAGE) == better


# ----- changes by hand


async def row(engine: AsyncEngine, image_hash: str = IMAGE) -> CachedImage | None:
    async with engine.connect() as connection:
        query = select(CachedImage.__table__).where(CachedImage.image_hash == image_hash)
        found: CachedImage | None = (await connection.execute(query)).one_or_none()  # type: ignore[assignment]
        return found


async def test_a_corrected_entry_keeps_its_hits_and_no_model_replaces_it(engine: AsyncEngine) -> None:
    cache = service(engine)
    await cache.save(IMAGE, result(Category.FOODS), model="m")
    hit_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with engine.begin() as connection:
        await connection.execute(update(CachedImage).values(hit_count=7, last_hit_at=hit_at))
    corrected = await cache.correct(IMAGE, Category.PETS, "一只猫")
    assert (corrected.category, corrected.confidence, corrected.description) == (Category.PETS, 1.0, "一只猫")
    assert await cache.get(IMAGE) == corrected
    assert await cache.save(IMAGE, result(Category.OTHER), model="m") == corrected
    found = await row(engine)
    assert found is not None
    assert (found.hit_count, found.last_hit_at, found.model_used, found.model_response) == (7, hit_at, "manual", None)


async def test_a_corrected_local_entry_counts_for_everybody(engine: AsyncEngine) -> None:
    await service(engine, local=True).save(IMAGE, result(Category.FOODS), model=LOCAL)
    cache = service(engine)
    assert await cache.get(IMAGE) is None
    corrected = await cache.correct(IMAGE, Category.PETS, None)
    assert await cache.get(IMAGE) == corrected
    assert await cache.save(IMAGE, result(Category.OTHER), model="m") == corrected


async def test_a_removed_entry_is_unknown_until_a_model_answers_again(engine: AsyncEngine) -> None:
    process = await started(engine)
    await process.cache.save(IMAGE, result(Category.FOODS), model="m")
    await process.cache.remove(IMAGE)
    assert await process.cache.get(IMAGE) is None
    with pytest.raises(CacheEntryNotFound):
        await process.cache.remove(IMAGE)
    with pytest.raises(CacheEntryNotFound):
        await process.cache.correct(IMAGE, Category.PETS, None)
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(CacheChange)) == 1
    again = await process.cache.save(IMAGE, result(Category.PETS), model="m")
    assert await process.cache.get(IMAGE) == again


async def test_simultaneous_changes_are_all_made(engine: AsyncEngine) -> None:
    cache = service(engine)
    hashes = [f"{number:064x}" for number in range(8)]
    for each in hashes:
        await cache.save(each, result(Category.FOODS), model="m")
    await asyncio.gather(*(cache.correct(each, Category.PETS, None) for each in hashes))
    removals = await asyncio.gather(*(cache.remove(each) for each in hashes * 2), return_exceptions=True)
    assert sum(removal is None for removal in removals) == len(hashes)
    assert await cache.get_many(hashes) == {}


async def test_other_processes_learn_of_a_change_with_their_next_look(engine: AsyncEngine) -> None:
    one, other = await started(engine), await started(engine)
    await one.cache.save(IMAGE, result(Category.FOODS), model="m")
    await other.cache.get(IMAGE)
    corrected = await one.cache.correct(IMAGE, Category.PETS, None)
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
    old = await one.cache.save(IMAGE, result(Category.FOODS), model="m")
    await one.cache.remove(IMAGE)
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
    monkeypatch.setattr(cache_copies, "TRUST_SECONDS", TRUST_SECONDS)
    monkeypatch.setattr(cache_copies, "time", fake_time)
    monkeypatch.setattr("app.services.cache_watch.time", fake_time)
    process = Process(engine)
    saved = await process.cache.save(IMAGE, result(Category.FOODS), model="m")
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
        await process.watch.look()
        assert process.cache.peek(IMAGE) is None
        assert await process.cache.get(IMAGE) == saved
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE change_away RENAME TO cache_change"))
    await process.watch.look()
    assert process.cache.peek(IMAGE) == saved


async def record_change(engine: AsyncEngine, image_hash: str, *, ago: timedelta) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(CacheChange).values(image_hash=image_hash, changed_at=utc_now() - ago))


async def test_a_change_during_an_outage_is_learnt_after_it(engine: AsyncEngine) -> None:
    process = await started(engine)
    saved = await process.cache.save(IMAGE, result(Category.FOODS), model="m")
    await record_change(engine, IMAGE, ago=timedelta(minutes=5))
    await process.watch.look()
    assert process.cache.peek(IMAGE) == saved
    process.watch._last_time = utc_now() - timedelta(minutes=10)
    await process.watch.look()
    assert process.cache.peek(IMAGE) is None


async def test_an_outage_longer_than_changes_are_kept_empties_memory(engine: AsyncEngine) -> None:
    process = await started(engine)
    await process.cache.save(IMAGE, result(Category.FOODS), model="m")
    process.watch._last_time = utc_now() - timedelta(hours=48)
    await process.watch.look()
    assert len(process.memory) == 0
    assert await process.cache.get(IMAGE) == process.cache.peek(IMAGE) is not None


async def test_more_changes_than_can_be_remembered_empty_memory(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_copies, "MAX_CHANGES", 3)
    monkeypatch.setattr("app.services.cache_watch.MAX_CHANGES", 3)
    process = await started(engine)
    await process.cache.save(IMAGE, result(Category.FOODS), model="m")
    for number in range(4):
        await record_change(engine, f"{number:064x}", ago=timedelta(seconds=number))
    await process.watch.look()
    assert (len(process.memory), process.cache.peek(IMAGE)) == (0, None)
    assert await process.cache.get(IMAGE) is not None
    assert process.cache.peek(IMAGE) is None


async def test_old_changes_are_deleted_with_the_next_one(engine: AsyncEngine) -> None:
    cache = service(engine)
    await cache.save(IMAGE, result(Category.FOODS), model="m")
    for hours in (47, 49, 100):
        await record_change(engine, f"{hours:064x}", ago=timedelta(hours=hours))
    await cache.remove(IMAGE)
    async with engine.connect() as connection:
        left = (await connection.scalars(select(CacheChange.image_hash).order_by(CacheChange.id))).all()
    assert left == [f"{47:064x}", IMAGE]
