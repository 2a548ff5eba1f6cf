"""What operators do to entries is in their history, can be undone, and reaches what repeats them."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import MARKED_MODEL_PREFIX
from app.clock import utc_now
from app.database.statements import execute
from app.database.tables.classification import CachedImage
from app.database.tables.feedback import CacheHistory, FeedbackVote
from app.database.tables.near_duplicates import CacheAlias
from app.database.tables.statistics import CacheTotals
from app.errors import CacheEntryNotFound, InvalidRequest, NothingToUndo
from app.services.cache import corrections
from app.services.cache.entry import MANUAL_MODEL, CachedResult
from app.services.cache.rows import insert_entry
from app.services.cache.service import CacheService
from app.services.feedback.entries import ReviewedEntries
from app.services.feedback.lifespan import forget_removed
from app.services.feedback.review import Outcome, ReviewAction, ReviewService
from tests.support.cache_processes import IMAGE, result, save, started
from tests.support.corrections import OPERATOR, review_of
from tests.support.feedback import feedback_on, say

ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
PETS, FOODS, OTHER = Category.PETS, Category.FOODS, Category.OTHER
ALIAS = "b" * 64
UNKNOWN = "0" * 64


@pytest.fixture
async def cache(engine: AsyncEngine) -> CacheService:
    """A cache in which one photo is wrongly called food, and another one repeats it."""
    process = await started(engine)
    for image_hash in (IMAGE, ALIAS):
        await save(process.cache, image_hash, result(FOODS), model="m")

    async def link(connection: AsyncConnection, _: Any) -> tuple[None, list[str]]:
        ids = select(CachedImage.image_hash, CachedImage.id)
        rows = {row.image_hash: row.id for row in await connection.execute(ids)}
        alias = CacheAlias(entry_id=rows[ALIAS], original_id=rows[IMAGE], distance=2)
        values = {"entry_id": alias.entry_id, "original_id": alias.original_id, "distance": alias.distance}
        await connection.execute(CacheAlias.__table__.insert().values(**values))  # type: ignore[attr-defined]
        return None, []

    await process.cache.change(link)
    await process.cache.get_many([IMAGE, ALIAS])
    return process.cache


@pytest.fixture
def review(cache: CacheService) -> ReviewService:
    return review_of(cache)


async def totals(engine: AsyncEngine) -> tuple[int, int]:
    """Entries and hits, as the sums have them."""
    async with engine.connect() as connection:
        row = (await connection.execute(select(func.sum(CacheTotals.images), func.sum(CacheTotals.hits)))).one()
    return int(row[0]), int(row[1])


async def said_of(engine: AsyncEngine) -> tuple[list[str], set[str]]:
    """What the review has of the photo: its history and the comments."""
    details = await ReviewedEntries(engine).details(IMAGE)
    return [each.action for each in details.history], {each.text for each in details.comments}


async def test_a_correction_reaches_what_repeats_the_entry_and_is_undone_with_it(
    cache: CacheService, review: ReviewService
) -> None:
    before = await cache.get_many([IMAGE, ALIAS])
    entry = await review.correct(IMAGE, PETS, "a cat", OPERATOR)
    assert await cache.get_many([IMAGE, ALIAS]) == {IMAGE: entry, ALIAS: entry}
    await review.correct(IMAGE, OTHER, None, OPERATOR)
    await review.undo(IMAGE, OPERATOR)
    assert await cache.get_many([IMAGE, ALIAS]) == {IMAGE: entry, ALIAS: entry}
    await review.undo(IMAGE, OPERATOR)
    assert await cache.get_many([IMAGE, ALIAS]) == before
    with pytest.raises(NothingToUndo):
        await review.undo(IMAGE, OPERATOR)
    with pytest.raises(NothingToUndo):
        await review.undo(UNKNOWN, OPERATOR)


async def test_the_history_says_who_did_what(engine: AsyncEngine, cache: CacheService, review: ReviewService) -> None:
    await say(feedback_on(engine, cache, quorum=1), PETS, "ann", comment="my cat")
    await review.correct(IMAGE, OTHER, "a chart", OPERATOR)
    await review.undo(IMAGE, OPERATOR)
    details = await ReviewedEntries(engine).details(IMAGE)
    said = [(each.action, each.actor, each.category_before, each.category_after) for each in details.history]
    assert said == [
        ("restored", "key:1", "other", "pets"),
        ("corrected", "key:1", "pets", "other"),
        ("corrected", "feedback", "foods", "pets"),
    ]
    assert [each.model_before for each in details.history] == [MANUAL_MODEL, "feedback", "m"]
    assert [each.undone_at is not None for each in details.history] == [False, True, False]
    # The operator had said another category.
    assert [(each.text, each.is_dismissed) for each in details.comments] == [("my cat", True)]
    assert details.entry is not None
    assert (details.entry.confidence_source, details.entry.model) == ("corrected", "feedback")


async def test_a_removed_entry_comes_back_with_its_hits(
    engine: AsyncEngine, cache: CacheService, review: ReviewService
) -> None:
    before, sums = await cache.get(IMAGE), await totals(engine)
    await review.remove(IMAGE, OPERATOR, can_be_undone=True)
    assert await cache.get_many([IMAGE, ALIAS]) == {}
    details = await ReviewedEntries(engine).details(IMAGE)
    assert details.entry is None
    await review.undo(IMAGE, OPERATOR)
    assert await cache.get_many([IMAGE, ALIAS]) == {IMAGE: before}
    # Its alias is gone.
    assert await totals(engine) == (sums[0] - 1, sums[1] - 1)


async def test_a_removal_takes_the_original_of_an_alias_along_and_both_come_back(
    cache: CacheService, review: ReviewService
) -> None:
    before = await cache.get_many([IMAGE, ALIAS])
    await review.remove(ALIAS, OPERATOR, can_be_undone=True)
    assert await cache.get_many([IMAGE, ALIAS]) == {}
    done = await review.act(ReviewAction.UNDO, [ALIAS, IMAGE, UNKNOWN], OPERATOR)
    assert done == [Outcome(ALIAS), Outcome(IMAGE), Outcome(UNKNOWN, "nothing_to_undo")]
    assert await cache.get_many([IMAGE, ALIAS]) == before


async def test_what_is_removed_for_good_leaves_nothing(
    engine: AsyncEngine, cache: CacheService, review: ReviewService
) -> None:
    await say(feedback_on(engine, cache), PETS, "ann", comment="my cat Minka")
    await review.correct(IMAGE, PETS, "a cat", OPERATOR)
    await review.remove(IMAGE, OPERATOR, can_be_undone=False)
    with pytest.raises(CacheEntryNotFound):
        await ReviewedEntries(engine).details(IMAGE)
    with pytest.raises(NothingToUndo):
        await review.undo(IMAGE, OPERATOR)


async def test_a_removal_is_forgotten_after_a_while(
    engine: AsyncEngine, cache: CacheService, review: ReviewService
) -> None:
    await review.correct(IMAGE, PETS, "a cat", OPERATOR)
    await review.remove(IMAGE, OPERATOR, can_be_undone=True)
    assert await forget_removed(engine, utc_now() - timedelta(days=1)) == 0
    assert await forget_removed(engine, utc_now() + timedelta(days=1)) == 1
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(CacheHistory)) == 0


@ON_SQLITE
async def test_what_lives_keeps_its_history_and_its_comments(
    engine: AsyncEngine, cache: CacheService, review: ReviewService
) -> None:
    feedback, later = feedback_on(engine, cache, quorum=0), utc_now() + timedelta(days=1)
    await say(feedback, PETS, "ann", comment="my cat")
    await review.remove(IMAGE, OPERATOR, can_be_undone=True)
    await review.undo(IMAGE, OPERATOR)
    assert await forget_removed(engine, later) == 0
    assert await said_of(engine) == (["restored", "removed"], {"my cat"})
    # Removed again, and answered by a model: what is said of the new answer is kept.
    await review.remove(IMAGE, OPERATOR, can_be_undone=True)
    await save(cache, IMAGE, result(FOODS), model="m")
    await say(feedback, PETS, "bob", comment="it is a cat still", address="192.0.2.2")
    await review.correct(IMAGE, PETS, None, OPERATOR)
    async with engine.begin() as connection:
        # Times are kept to the second.
        after = utc_now() + timedelta(minutes=1)
        is_later = FeedbackVote.comment != "my cat"
        await connection.execute(update(FeedbackVote).where(is_later).values(created_at=after))
    assert await forget_removed(engine, later) == 1
    assert await said_of(engine) == (["corrected"], {"it is a cat still"})


@ON_SQLITE
async def test_what_was_removed_can_still_be_removed_for_good(
    engine: AsyncEngine, cache: CacheService, review: ReviewService
) -> None:
    await say(feedback_on(engine, cache), PETS, "ann", comment="my cat Minka")
    await review.remove(IMAGE, OPERATOR, can_be_undone=True)
    await review.remove(IMAGE, OPERATOR, can_be_undone=False)
    async with engine.connect() as connection:
        assert (await connection.scalars(select(FeedbackVote.comment))).all() == [None]
    with pytest.raises(NothingToUndo):
        await review.undo(IMAGE, OPERATOR)
    for can_be_undone in (True, False):
        with pytest.raises(CacheEntryNotFound):
            await review.remove(IMAGE, OPERATOR, can_be_undone=can_be_undone)


@ON_SQLITE
async def test_an_undo_that_an_upload_overtakes_stops_no_other(
    cache: CacheService, review: ReviewService, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "c" * 64
    await save(cache, other, result(PETS), model="m")
    for each in (IMAGE, other):
        await review.remove(each, OPERATOR, can_be_undone=True)
    look = corrections._locked

    async def look_before_an_upload(connection: AsyncConnection, image_hash: str) -> Any:
        try:
            return await look(connection, image_hash)
        except CacheEntryNotFound:
            if image_hash == IMAGE:
                # SQLite has one writer, so here the row is of the same transaction.
                entry = insert_entry(image_hash, CachedResult(FOODS, 0.5, None, "m"), {}, utc_now())
                await execute(connection, entry)
            raise

    monkeypatch.setattr(corrections, "_locked", look_before_an_upload)
    done = await review.act(ReviewAction.UNDO, [IMAGE, other], OPERATOR)
    assert done == [Outcome(IMAGE, "nothing_to_undo"), Outcome(other)]


async def test_a_removed_photo_that_a_model_has_answered_since_stays_as_it_is(
    cache: CacheService, review: ReviewService
) -> None:
    await review.remove(IMAGE, OPERATOR, can_be_undone=True)
    again = await save(cache, IMAGE, result(PETS), model="m")
    with pytest.raises(NothingToUndo):
        await review.undo(IMAGE, OPERATOR)
    assert await cache.get(IMAGE) == again


async def test_entries_are_asked_again_also_those_that_people_have_corrected(
    engine: AsyncEngine, cache: CacheService, review: ReviewService
) -> None:
    await review.correct(IMAGE, PETS, None, OPERATOR)
    await review.ask_again(IMAGE, OPERATOR)
    # Once more changes nothing.
    await review.ask_again(IMAGE, OPERATOR)
    assert await cache.get_many([IMAGE, ALIAS]) == {}
    async with engine.connect() as connection:
        names = set(await connection.scalars(select(CachedImage.model_used)))
    assert names == {f"{MARKED_MODEL_PREFIX}{MANUAL_MODEL}"}
    await review.undo(IMAGE, OPERATOR)
    found = await cache.get_many([IMAGE, ALIAS])
    assert {entry.model for entry in found.values()} == {MANUAL_MODEL}
    assert len(found) == 2
    await review.ask_again(IMAGE, OPERATOR)
    answer = await save(cache, IMAGE, result(OTHER), model="m")
    assert await cache.get(IMAGE) == answer
    # The mark was answered: there is nothing to take back.
    with pytest.raises(NothingToUndo):
        await review.undo(IMAGE, OPERATOR)


async def test_an_identity_document_is_repeated_for_no_other_photo(cache: CacheService, review: ReviewService) -> None:
    before = await cache.get(IMAGE)
    await review.correct(IMAGE, Category.IDCARD, None, OPERATOR)
    assert set(await cache.get_many([IMAGE, ALIAS])) == {IMAGE}
    await review.undo(IMAGE, OPERATOR)
    assert await cache.get(IMAGE) == before


async def test_votes_that_are_dismissed_dispute_nothing(
    engine: AsyncEngine, cache: CacheService, review: ReviewService
) -> None:
    feedback = feedback_on(engine, cache, quorum=2)
    await say(feedback, PETS, "ann")
    await say(feedback, FOODS, "eve", address="192.0.2.2")
    await review.dismiss(IMAGE, OPERATOR)
    assert not (await say(feedback, PETS, "ann")).corrected
    details = await ReviewedEntries(engine).details(IMAGE)
    assert details.entry is not None
    assert [(each.category, each.voters) for each in details.entry.opinions] == [(FOODS, 1)]


async def test_one_that_fails_stops_no_other(cache: CacheService, review: ReviewService) -> None:
    done = await review.act(ReviewAction.CORRECT, [UNKNOWN, IMAGE, IMAGE], OPERATOR, category=PETS)
    assert done == [Outcome(UNKNOWN, "cache_entry_not_found"), Outcome(IMAGE)]
    with pytest.raises(InvalidRequest):
        await review.act(ReviewAction.CORRECT, [IMAGE], OPERATOR)
