"""The SQL of `idempotent_answer`. Its times are of the database's clock, which all processes share."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, literal_column, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.pipeline import DuplicateRowError, Rows
from app.database.statements import Statement, execute, rows_of_placeholders, seconds_before, seconds_from_now
from app.database.tables.idempotency import IdempotentAnswer
from app.services.idempotency.key import KEPT, IdempotencyKey, KeptAnswer

# For so long after a change by hand, a process may answer with an older copy (app/services/cache/tiers.py).
COPIES_CHANGE_WITHIN_SECONDS = 60

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


def select_answer(dialect: str, key: IdempotencyKey) -> Statement:
    """Return the look-up of a key; `found_in` reads its rows."""
    hashes = key.image_hashes
    is_changed = "0"
    if hashes:
        since = seconds_before(dialect, "answer.created_at", COPIES_CHANGE_WITHIN_SECONDS)
        is_changed = (
            "EXISTS (SELECT 1 FROM cache_change AS changed"  # noqa: S608 - placeholders
            f" WHERE changed.image_hash IN {rows_of_placeholders(1, len(hashes))}"
            f" AND changed.by_hand = 1 AND changed.changed_at > {since})"
        )
    text = (
        "SELECT answer.fingerprint, answer.request_id, answer.body,"  # noqa: S608 - placeholders
        f" answer.created_at <= {_oldest(dialect)}, {is_changed}"
        " FROM idempotent_answer AS answer WHERE answer.key_hash = %s"
    )
    return Statement(text, [*hashes, key.key_hash])


def found_in(rows: Rows) -> Found | None:
    """Return what `select_answer` has found, also an answer that counts no longer."""
    for fingerprint, request_id, body, is_expired, is_changed in rows:
        return Found(fingerprint, request_id, body, bool(is_expired), bool(is_changed))
    return None


async def delete_answer(connection: AsyncConnection, key_hash: str, request_id: str) -> None:
    """Delete the answer of one request, and no later one with the same key."""
    row = IdempotentAnswer
    await connection.execute(delete(row).where(row.key_hash == key_hash, row.request_id == request_id))


async def delete_old(connection: AsyncConnection, rows: int) -> int:
    """Delete at most so many answers whose time is over; return how many."""
    row = IdempotentAnswer
    old = select(row.key_hash).where(row.created_at <= literal_column(_oldest(connection.dialect.name))).limit(rows)
    return await _delete(connection, (await connection.scalars(old)).all())


async def delete_of_user(connection: AsyncConnection, rows: int, *, user_id: str) -> int:
    """Delete at most so many answers to one user; return how many."""
    row = IdempotentAnswer
    theirs = select(row.key_hash).where(row.user_id == user_id).limit(rows)
    return await _delete(connection, (await connection.scalars(theirs)).all())


def _oldest(dialect: str) -> str:
    return seconds_from_now(dialect, -int(KEPT.total_seconds()))


async def _delete(connection: AsyncConnection, key_hashes: Sequence[str]) -> int:
    """By their keys, which locks no other rows."""
    if key_hashes:
        await connection.execute(delete(IdempotentAnswer).where(IdempotentAnswer.key_hash.in_(key_hashes)))
    return len(key_hashes)
