"""How often answers were right, as far as users have said so.

A photo counts once for each model and category that answered it: as right if more voters say so than say any other
category, as wrong if fewer, and not at all where they are as many. The interval is that of a random sample, which users
who send feedback are not: who finds an answer wrong is likelier to say so.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.database.tables.feedback import FeedbackVote
from app.evaluation.statistics import share
from app.services.cache.entry import PEOPLE
from app.services.feedback.votes import countable

# The newest; more would keep a connection busy for seconds, and the interval of so many is a percent to either side.
MAX_VOTES = 10_000
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
    """Return the accuracy of each model, then of each of its categories, by the newest votes of a time.

    The model with the most photos is first. Answers that people gave are left out.
    """
    photos: defaultdict[str, Counter[Category | None]] = defaultdict(Counter)
    right: defaultdict[str, Counter[Category | None]] = defaultdict(Counter)
    for row in await connection.execute(_verdicts(start, end)):
        for group in (None, Category(row.answered_category)):
            photos[row.answered_model][group] += int(row.photos)
            right[row.answered_model][group] += int(row.right_ones)
    return [
        _accuracy(model, category, right[model][category], photos[model][category])
        for model in sorted(photos, key=lambda model: (-photos[model][None], model))
        for category in sorted(photos[model], key=lambda each: (each is not None, -photos[model][each], each or ""))
    ]


def _verdicts(start: datetime, end: datetime) -> Select[Any]:
    """Return how many photos users have judged, and how many as right, by the model and the category that it answered.

    All of it is done by the database: a process that counted would answer no request meanwhile.
    """
    votes = (
        select(_vote.__table__)
        .where(
            _vote.created_at >= start,
            _vote.created_at < end,
            _vote.is_dismissed == 0,
            _vote.answered_model.not_in(PEOPLE),
        )
        .order_by(_vote.id.desc())
        .limit(MAX_VOTES)
        .subquery()
        .c
    )
    answer = votes.image_hash, votes.answered_model, votes.answered_category
    opinions = select(*answer, votes.category, *countable(votes)).group_by(*answer, votes.category).subquery().c
    # As `effective` has it.
    fewer = case((opinions.users < opinions.networks, opinions.users), else_=opinions.networks)
    voters = opinions.named + fewer
    agrees = opinions.category == opinions.answered_category
    judged = (
        select(
            opinions.answered_model,
            opinions.answered_category,
            func.max(case((agrees, voters), else_=0)).label("agree"),
            func.max(case((agrees, 0), else_=voters)).label("others"),
        )
        .group_by(opinions.image_hash, opinions.answered_model, opinions.answered_category)
        .subquery()
        .c
    )
    return (
        select(
            judged.answered_model,
            judged.answered_category,
            func.count().label("photos"),
            func.sum(case((judged.agree > judged.others, 1), else_=0)).label("right_ones"),
        )
        .where(judged.agree != judged.others)
        .group_by(judged.answered_model, judged.answered_category)
    )


def _accuracy(model: str, category: Category | None, right: int, photos: int) -> Accuracy:
    found = share(right, photos)
    value, low, high = (round(number or 0.0, DIGITS) for number in (found.value, found.low, found.high))
    return Accuracy(model, category, photos, right, value, low, high)
