"""Which entries an operator sees: by category, model, confidence, dispute, hash, request id and description."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clock import utc_now
from app.database.pipeline import run
from app.errors import CacheEntryNotFound
from app.services.cache.entry import CachedResult
from app.services.cache.rows import insert_entry
from app.services.cache.service import CacheService
from app.services.feedback import entries
from app.services.feedback.entries import Filters, ReviewedEntries
from tests.support import records
from tests.support.cache_processes import service
from tests.support.corrections import OPERATOR, review_of
from tests.support.databases import recorder_on
from tests.support.feedback import feedback_on, say

ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
PETS, FOODS = Category.PETS, Category.FOODS
NUMBER = 12


def photo(number: int) -> str:
    return f"{number:08x}" * 8


@pytest.fixture
async def cache(engine: AsyncEngine) -> CacheService:
    """A cache with a dozen entries, of two categories and two models, ever more certain."""
    statements = [
        insert_entry(
            photo(number),
            CachedResult(
                PETS if number % 2 else FOODS, number / 20, f"100%_{number} 图", "one" if number % 3 else "two"
            ),
            {"confidence_source": "calibrated"},
            utc_now(),
        )
        for number in range(NUMBER)
    ]
    await run(engine, statements, writes=True)
    return service(engine)


async def found(engine: AsyncEngine, filters: Filters, *, limit: int = 50) -> list[int]:
    """The numbers of all entries that fit, through all pages."""
    reviewed = ReviewedEntries(engine)
    numbers: list[int] = []
    page = await reviewed.page(filters, before=None, limit=limit)
    while True:
        assert len(page.entries) <= limit
        numbers += [int(entry.image_hash[:8], 16) for entry in page.entries]
        if page.next_before is None:
            return numbers
        page = await reviewed.page(filters, before=page.next_before, limit=limit)


@pytest.mark.parametrize("limit", [50, 2])
async def test_filters(engine: AsyncEngine, cache: CacheService, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Many ranges, and one of them for each request.
    monkeypatch.setattr(entries, "SCAN_ROWS", 3)
    monkeypatch.setattr(entries, "SCAN_SECONDS", 0.0)
    await review_of(cache).ask_again(photo(3), OPERATOR)
    for filters, numbers in (
        (Filters(), range(NUMBER)),
        (Filters(category=PETS), range(1, NUMBER, 2)),
        # Also what is to be asked again.
        (Filters(model="two"), (0, 3, 6, 9)),
        (Filters(below=0.2), range(4)),
        (Filters(category=FOODS, model="one", below=0.45), (2, 4, 8)),
        (Filters(text="%_1"), (1, 10, 11)),
        (Filters(text=" 图 "), range(NUMBER)),
        (Filters(text="nothing of the kind"), ()),
        (Filters(text=photo(5)), (5,)),
        (Filters(text=photo(10).upper()[:9]), (10,)),
        (Filters(text=photo(5), category=FOODS), ()),
        (Filters(text="req_1_ab"), ()),
    ):
        assert await found(engine, filters, limit=limit) == sorted(numbers, reverse=True), filters


async def test_an_entry_is_found_by_a_request(engine: AsyncEngine, cache: CacheService) -> None:
    await recorder_on(engine).record([records.record(7, request_id="req_17_ab", image_hash=photo(7))])
    assert await found(engine, Filters(text="req_17_ab")) == [7]


async def test_disputed_are_those_of_which_a_vote_says_another_category(
    engine: AsyncEngine, cache: CacheService
) -> None:
    feedback = feedback_on(engine, cache)
    await say(feedback, FOODS, "ann", image_hash=photo(1))
    await say(feedback, PETS, "ann", image_hash=photo(2), comment="a cat")
    await say(feedback, PETS, "bob", image_hash=photo(2), address="192.0.2.2")
    await say(feedback, PETS, "ann", image_hash=photo(3))
    for limit in (50, 1):
        assert await found(engine, Filters(disputed=True), limit=limit) == [2, 1]
    assert await found(engine, Filters(disputed=True, category=FOODS, below=0.5, text="100")) == [2]
    details = await ReviewedEntries(engine).details(photo(2))
    assert details.entry is not None
    assert [(each.category, each.voters) for each in details.entry.opinions] == [(PETS, 2)]
    assert [each.text for each in details.comments] == ["a cat"]
    assert details.entry.confidence_source == "calibrated"
    with pytest.raises(CacheEntryNotFound):
        await ReviewedEntries(engine).details("f" * 64)


@ON_SQLITE
@pytest.mark.parametrize("text", [None, "100"])
async def test_a_look_for_disputes_ends_in_time(
    engine: AsyncEngine, cache: CacheService, text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "SCAN_ROWS", 3)
    monkeypatch.setattr(entries, "SCAN_SECONDS", 0.0)
    await say(feedback_on(engine, cache), PETS, "ann", image_hash=photo(0))
    page = await ReviewedEntries(engine).page(Filters(disputed=True, text=text), before=None, limit=50)
    # One range: the next request goes on.
    assert page.entries == []
    assert page.next_before == NUMBER + 1 - 3
    assert await found(engine, Filters(disputed=True, text=text)) == [0]
    assert await found(engine, Filters(disputed=True, text=photo(0))) == [0]
