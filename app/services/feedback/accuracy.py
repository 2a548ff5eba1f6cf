"""How often answers were right, as far as users have said so.

A photo counts once for each model and category that answered it: as right if more voters say so than say any other
category, as wrong if fewer, and not at all where they are as many. The interval is that of a random sample, which users
who send feedback are not: who finds an answer wrong is likelier to say so.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.database.tables.feedback import FeedbackVote
from app.evaluation.statistics import share
from app.services.cache.entry import PEOPLE
from app.services.feedback.votes import countable, effective

# Newer votes count first; more would keep a connection busy for seconds (docs/feedback.md).
MAX_GROUPS = 100_000
DIGITS = 4

_vote = FeedbackVote


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of the photos that a model has put into a category, how many are there by the users' word.

    `accuracy` is a share, 0..1, and `low` and `high` are its 95 % interval by Wilson. `category` None: all of them.
    """

    model: str
    category: Category | None
    photos: int
    right: int
    accuracy: float
    low: float
    high: float


async def read_accuracy(connection: AsyncConnection, *, start: datetime, end: datetime) -> list[Accuracy]:
    """Return the accuracy of each model, then of each of its categories, by the votes of a time.

    The model with the most photos is first. Answers that people gave are left out.
    """
    query = (
        select(_vote.image_hash, _vote.answered_model, _vote.answered_category, _vote.category, *countable())
        .where(
            _vote.created_at >= start,
            _vote.created_at < end,
            _vote.is_dismissed == 0,
            _vote.answered_model.not_in(PEOPLE),
        )
        .group_by(_vote.image_hash, _vote.answered_model, _vote.answered_category, _vote.category)
        .limit(MAX_GROUPS)
    )
    votes: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for row in await connection.execute(query):
        answered = row.image_hash, row.answered_model, row.answered_category
        votes[answered][row.category] = effective(row.named, row.users, row.networks)
    photos: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    right: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    for (_, model, category), said in votes.items():
        agree = said.pop(category, 0)
        others = max(said.values(), default=0)
        if agree == others:
            continue
        for group in (None, Category(category)):
            photos[model][group] += 1
            right[model][group] += agree > others
    return [
        _accuracy(model, category, right[model][category], photos[model][category])
        for model in sorted(photos, key=lambda model: (-photos[model][None], model))
        for category in sorted(photos[model], key=lambda each: (each is not None, -photos[model][each], each or ""))
    ]


def _accuracy(model: str, category: Category | None, right: int, photos: int) -> Accuracy:
    found = share(right, photos)
    value, low, high = (round(number or 0.0, DIGITS) for number in (found.value, found.low, found.high))
    return Accuracy(model, category, photos, right, value, low, high)
