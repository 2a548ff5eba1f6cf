"""The SQL of the table `feedback`: one vote of each user about each photo."""

from collections import Counter
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, case, delete, distinct, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.clock import utc_now
from app.database.tables.feedback import FeedbackVote
from app.services.cache.entry import PEOPLE
from app.services.feedback.voter import Voter

_vote = FeedbackVote


class Vote(NamedTuple):
    """What a user says of a photo, and what the service had answered, by which model."""

    image_hash: str
    category: Category
    comment: str | None
    answered_category: Category
    answered_model: str


async def put_vote(connection: AsyncConnection, voter: Voter, vote: Vote) -> bool:
    """Store a vote in the place of the user's earlier one; return whether there was none.

    To be called with the photo's entry locked, so that no two requests store the first vote of one user.
    """
    is_theirs = _vote.image_hash == vote.image_hash, _vote.voter == voter.voter
    earlier = (await connection.execute(select(_vote.id, _vote.category).where(*is_theirs))).one_or_none()
    values: dict[str, Any] = {
        "category": vote.category.value,
        "comment": vote.comment,
        "counted_as": voter.counted_as,
        "network": voter.network,
        "user_hash": voter.user_hash,
        "created_at": utc_now(),
    }
    answered = {"answered_category": vote.answered_category.value, "answered_model": vote.answered_model}
    if earlier is None:
        key = {"image_hash": vote.image_hash, "voter": voter.voter}
        await connection.execute(insert(_vote).values(**key, **values, **answered))
        return True
    if vote.answered_model not in PEOPLE:
        # A vote that is repeated after the correction still says something of the model.
        values |= answered
    if earlier.category != vote.category.value:
        # What an operator has set aside was another opinion.
        values["is_dismissed"] = 0
    await connection.execute(update(_vote).where(_vote.id == earlier.id).values(**values))
    return False


def countable(votes: Any = FeedbackVote) -> tuple[ColumnElement[int], ColumnElement[int], ColumnElement[int]]:
    """Return what a group of votes, rows of the table or a part of it, is counted by: see `effective`.

    These are named voters, and of the others users and networks.
    """
    is_named = votes.network.is_(None)
    return (
        func.count(distinct(case((is_named, votes.counted_as)))).label("named"),
        func.count(distinct(case((~is_named, votes.counted_as)))).label("users"),
        func.count(distinct(votes.network)).label("networks"),
    )


def effective(named: int, users: int, networks: int) -> int:
    """Return how many voters count (app/services/feedback/voter.py)."""
    return named + min(users, networks)


async def support_of(connection: AsyncConnection, image_hash: str) -> Counter[Category]:
    """Return how many voters count for each category of a photo; votes that were set aside do not."""
    query = select(_vote.category, *countable()).where(_vote.image_hash == image_hash, _vote.is_dismissed == 0)
    rows = await connection.execute(query.group_by(_vote.category))
    return Counter({Category(row.category): effective(row.named, row.users, row.networks) for row in rows})


async def dismiss_votes(connection: AsyncConnection, image_hash: str, *, right: Category) -> int:
    """Set the votes for other categories aside, since an operator says what is right; return how many."""
    is_wrong = _vote.image_hash == image_hash, _vote.category != right.value, _vote.is_dismissed == 0
    return (await connection.execute(update(_vote).where(*is_wrong).values(is_dismissed=1))).rowcount


async def delete_votes_of(connection: AsyncConnection, user_hash: str, rows: int) -> int:
    """Delete at most so many votes of a user; return how many."""
    return await _delete(connection, _vote.user_hash == user_hash, rows)


async def delete_votes_before(connection: AsyncConnection, cutoff: datetime, rows: int) -> int:
    """Delete at most so many votes from before `cutoff`; return how many."""
    return await _delete(connection, _vote.created_at < cutoff, rows)


async def _delete(connection: AsyncConnection, condition: ColumnElement[bool], rows: int) -> int:
    ids = (await connection.scalars(select(_vote.id).where(condition).limit(rows))).all()
    if ids:
        await connection.execute(delete(_vote).where(_vote.id.in_(ids)))
    return len(ids)
