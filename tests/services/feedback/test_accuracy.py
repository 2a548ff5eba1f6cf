"""Accuracy is counted by photos, not by votes, and says how sure it is."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clock import utc_now
from app.database.transactions import read
from app.services.feedback.accuracy import Accuracy, read_accuracy
from tests.support.cache_processes import result, save, service
from tests.support.corrections import correct
from tests.support.feedback import feedback_on, say

PETS, FOODS = Category.PETS, Category.FOODS


def photo(number: int) -> str:
    return f"{number:064x}"


async def measured(engine: AsyncEngine) -> list[Accuracy]:
    now = utc_now()
    start, end = now - timedelta(days=1), now + timedelta(days=1)
    return await read(engine, lambda connection: read_accuracy(connection, start=start, end=end))


async def test_each_photo_counts_once_for_each_model(engine: AsyncEngine) -> None:
    cache = service(engine)
    feedback = feedback_on(engine, cache)
    assert await measured(engine) == []
    for number in range(6):
        await save(cache, photo(number), result(FOODS if number else PETS), model="m")
    # Of one photo three users say it is wrong, of which one network counts once.
    for user in ("ann", "bob", "eve"):
        await say(feedback, PETS, user, image_hash=photo(1))
    for number in (0, 2, 3):
        await say(feedback, PETS if number == 0 else FOODS, "ann", image_hash=photo(number))
    # One says so, and another one does not.
    await say(feedback, FOODS, "ann", image_hash=photo(4))
    await say(feedback, PETS, "bob", image_hash=photo(4), address="192.0.2.2")
    assert await measured(engine) == [
        Accuracy("m", None, 4, 3, 0.75, 0.3006, 0.9544),
        Accuracy("m", FOODS, 3, 2, 0.6667, 0.2077, 0.9385),
        Accuracy("m", PETS, 1, 1, 1.0, 0.2065, 1.0),
    ]


async def test_a_correction_takes_no_evidence_away(engine: AsyncEngine) -> None:
    cache = service(engine)
    feedback = feedback_on(engine, cache, quorum=1)
    await save(cache, photo(1), result(FOODS), model="m")
    assert (await say(feedback, PETS, "ann", image_hash=photo(1))).corrected
    # Said again of the corrected entry, and for the first time by another user.
    await say(feedback, PETS, "ann", image_hash=photo(1))
    await say(feedback, PETS, "bob", image_hash=photo(1), address="192.0.2.2")
    wrong = [(each.category, each.photos, each.right) for each in await measured(engine)]
    assert wrong == [(None, 1, 0), (FOODS, 1, 0)]
    # An operator finds the users wrong.
    await correct(cache, photo(1), FOODS, None)
    assert await measured(engine) == []
