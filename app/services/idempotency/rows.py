"""The SQL of `idempotent_answer`. Its times are of the database's clock, which all processes share."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, func, literal_column, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.pipeline import DuplicateRowError
from app.database.statements import Statement, execute, seconds_from_now
from app.database.tables.classification import CacheChange
from app.database.tables.idempotency import IdempotentAnswer
from app.services.idempotency.key import KEPT, IdempotencyKey, KeptAnswer

# For so long after a change by hand, a process may answer with an older copy (app/services/cache/tiers.py).
COPIES_CHANGE_WITHIN = timedelta(seconds=60)

_COLUMNS = "key_hash, fingerprint, request_id, user_id, image_id, body, created_at"


class Found(NamedTuple):
    """The row of a key; `is_changed`: a person has changed, since or just before, an entry that the answer tells."""

    fingerprint: str
    request_id: str
    body: str
    is_expired: bool
    is_changed: bool


def insert_answers(dialect: str, answers: Sequence[KeptAnswer]) -> Statement:
    """Return the INSERT of answers; it fails where one of the keys is taken.

    Sorted, so that two processes lock the keys in the same order.
    """
    row = f"(%s,%s,%s,%s,%s,%s,{seconds_from_now(dialect, 0)})"
    text = f"INSERT INTO idempotent_answer ({_COLUMNS}) VALUES {','.join([row] * len(answers))}"  # noqa: S608 - placeholders
    return Statement(text, [value for answer in sorted(answers) for value in answer])


async def insert_answer(connection: AsyncConnection, answer: KeptAnswer) -> None:
    """Insert an answer as a part of the connection's transaction.

    Raises:
        DuplicateRowError: the key is taken; the transaction has to be undone.
    """
    try:
        await execute(connection, insert_answers(connection.dialect.name, [answer]))
    except IntegrityError as error:
        raise DuplicateRowError from error


async def find_answer(connection: AsyncConnection, key: IdempotencyKey) -> Found | None:
    """Return the row of a key, also one that counts no longer."""
    row = IdempotentAnswer
    changed = select(func.max(CacheChange.changed_at)).where(
        CacheChange.image_hash.in_(key.image_hashes), CacheChange.by_hand == 1
    )
    query = select(
        row.fingerprint,
        row.request_id,
        row.body,
        row.created_at,
        (row.created_at <= _oldest(connection)).label("is_expired"),
        changed.scalar_subquery().label("changed_at"),
    ).where(row.key_hash == key.key_hash)
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return None
    is_changed = (
        found.changed_at is not None and found.changed_at.replace(tzinfo=None) > found.created_at - COPIES_CHANGE_WITHIN
    )
    return Found(found.fingerprint, found.request_id, found.body, bool(found.is_expired), is_changed)


async def delete_answer(connection: AsyncConnection, key_hash: str, request_id: str) -> None:
    """Delete the answer of one request, and no later one with the same key."""
    row = IdempotentAnswer
    await connection.execute(delete(row).where(row.key_hash == key_hash, row.request_id == request_id))


async def delete_old(connection: AsyncConnection, rows: int) -> int:
    """Delete at most so many answers whose time is over; return how many."""
    row = IdempotentAnswer
    old = select(row.key_hash).where(row.created_at <= _oldest(connection)).limit(rows)
    return await _delete(connection, (await connection.scalars(old)).all())


async def delete_of_user(connection: AsyncConnection, rows: int, *, user_id: str) -> int:
    """Delete at most so many answers to one user; return how many."""
    row = IdempotentAnswer
    theirs = select(row.key_hash).where(row.user_id == user_id).limit(rows)
    return await _delete(connection, (await connection.scalars(theirs)).all())


def _oldest(connection: AsyncConnection) -> ColumnElement[datetime]:
    return literal_column(seconds_from_now(connection.dialect.name, -int(KEPT.total_seconds())))


async def _delete(connection: AsyncConnection, key_hashes: Sequence[str]) -> int:
    """By their keys, which locks no other rows."""
    if key_hashes:
        await connection.execute(delete(IdempotentAnswer).where(IdempotentAnswer.key_hash.in_(key_hashes)))
    return len(key_hashes)
