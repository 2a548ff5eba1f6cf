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

# Of one photo, by callers from one network who name no account, device or key. All of them count as one, and they are
# counted while the photo's entry is locked.
MAX_VOTES_OF_NETWORK = 50

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

    Who an operator has overruled about a photo has no more say about it, and neither have callers without a credential
    from the same network: a user id costs nothing, so a new one would count at once.

    To be called with the photo's entry locked, so that no two requests store the first vote of one user.
    """
    is_theirs = _vote.image_hash == vote.image_hash, _vote.voter == voter.voter
    earlier = (await connection.execute(select(_vote.id, _vote.is_dismissed).where(*is_theirs))).one_or_none()
    is_dismissed = earlier is not None and bool(earlier.is_dismissed)
    values: dict[str, Any] = {
        "category": vote.category.value,
        "comment": vote.comment,
        "counted_as": voter.counted_as,
        "user_hash": voter.user_hash,
        "created_at": utc_now(),
    }
    if not is_dismissed:
        # What was overruled stays with the network that it came from.
        values["network"] = voter.network
        values["is_dismissed"] = int(await _is_overruled(connection, vote.image_hash, voter.network))
    answered = {"answered_category": vote.answered_category.value, "answered_model": vote.answered_model}
    if earlier is None:
        key = {"image_hash": vote.image_hash, "voter": voter.voter}
        await connection.execute(insert(_vote).values(**key, **values, **answered))
        await _delete_surplus(connection, vote.image_hash, voter.network)
        return True
    if vote.answered_model not in PEOPLE:
        # A vote that is repeated after the correction still says something of the model.
        values |= answered
    await connection.execute(update(_vote).where(_vote.id == earlier.id).values(**values))
    await _delete_surplus(connection, vote.image_hash, voter.network)
    return False


async def _is_overruled(connection: AsyncConnection, image_hash: str, network: str | None) -> bool:
    if network is None:
        return False
    is_dismissed = _vote.image_hash == image_hash, _vote.network == network, _vote.is_dismissed == 1
    return await connection.scalar(select(_vote.id).where(*is_dismissed).limit(1)) is not None


async def _delete_surplus(connection: AsyncConnection, image_hash: str, network: str | None) -> None:
    """Delete the oldest votes of a network about a photo; what keeps it overruled is always among the newer ones."""
    if network is None:
        return
    query = select(_vote.id).where(_vote.image_hash == image_hash, _vote.network == network)
    newest_first = query.order_by(_vote.created_at.desc(), _vote.id.desc())
    ids = (await connection.scalars(newest_first.offset(MAX_VOTES_OF_NETWORK).limit(MAX_VOTES_OF_NETWORK))).all()
    if ids:
        await connection.execute(delete(_vote).where(_vote.id.in_(ids)))


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
