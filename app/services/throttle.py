"""Guessing is slow: after some failures in a row, what they are counted for has to wait for the next try.

An attempt counts as failed before what was sent is looked at, and is taken back when it was right: many at once do not
outrun the count. All processes share it, in the database.
"""

import hashlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.statements import Statement, execute, upsert
from app.database.tables.accounts import LoginFailure
from app.database.transactions import write
from app.errors import AppError


class Subject(StrEnum):
    """What failures are counted for: the account that is guessed at, or the address that guesses.

    SIGN_UP counts the sign-ups from an address, of which none is taken back: also a refused one has asked for a name.
    """

    ACCOUNT = "account"
    ADDRESS = "address"
    KEY_ADDRESS = "key-address"
    SIGN_UP = "sign-up"


# Failures that cost nothing: typing errors, and a household or an office behind one address.
FREE_FAILURES = {Subject.ACCOUNT: 5, Subject.ADDRESS: 30, Subject.KEY_ADDRESS: 20, Subject.SIGN_UP: 10}
FIRST_PAUSE_SECONDS = 1.0
# Bounded, since a stranger can lock an account out for that long.
MAX_PAUSE_SECONDS = 60.0
FORGOTTEN_AFTER = timedelta(hours=1)


class Throttle:
    """Counts attempts in `login_failure`, under hashes of what they are counted for.

    Args:
        engine: the database.
        error: what an attempt that comes too early is answered with.
    """

    def __init__(self, engine: AsyncEngine, error: type[AppError]) -> None:
        self._engine = engine
        self._error = error

    async def begin(self, attempt: Mapping[Subject, str]) -> None:
        """Count an attempt as failed.

        Args:
            attempt: what it is counted for: the name of an account, an address as `client_key` returns it.

        Raises:
            AppError: the class that was given; it is too early for an attempt, and nothing is counted.
        """
        subjects = {kind: _hash(kind, name) for kind, name in attempt.items()}

        async def count(connection: AsyncConnection) -> None:
            now = datetime.now(UTC).replace(tzinfo=None)
            for subject in sorted(subjects.values()):
                # Locks the row, and makes it where there is none.
                await execute(connection, _touch(self._engine.dialect.name, subject, now))
            query = select(LoginFailure.subject, LoginFailure.failures, LoginFailure.last_failure_at)
            rows = (await connection.execute(query.where(LoginFailure.subject.in_(subjects.values())))).all()
            known = {subject: (failures, last_failure_at) for subject, failures, last_failure_at in rows}
            for kind, subject in subjects.items():
                failures, last_failure_at = known[subject]
                age = now - last_failure_at
                failures = 0 if age > FORGOTTEN_AFTER else failures
                pause = _pause(kind, failures)
                # The age is below zero where this attempt has waited for the row of a later one.
                if pause and pause > age:
                    raise self._error(retry_after_seconds=(pause - age).total_seconds())
                await connection.execute(
                    update(LoginFailure)
                    .where(LoginFailure.subject == subject)
                    .values(failures=failures + 1, last_failure_at=now)
                )

        await write(self._engine, count)

    async def succeed(self, attempt: Mapping[Subject, str], *, forgets: Collection[Subject] = ()) -> None:
        """Take an attempt back: one failure less, and none any more for the kinds that `forgets` names."""

        async def take_back(connection: AsyncConnection) -> None:
            for subject in sorted(_hash(kind, name) for kind, name in attempt.items() if kind in forgets):
                await connection.execute(delete(LoginFailure).where(LoginFailure.subject == subject))
            for subject in sorted(_hash(kind, name) for kind, name in attempt.items() if kind not in forgets):
                statement = "UPDATE login_failure SET failures = failures - 1 WHERE subject = %s AND failures > 0"
                await execute(connection, Statement(statement, (subject,)))
            forgotten = datetime.now(UTC).replace(tzinfo=None) - FORGOTTEN_AFTER
            await connection.execute(delete(LoginFailure).where(LoginFailure.last_failure_at < forgotten))

        await write(self._engine, take_back)


def _hash(kind: Subject, name: str) -> str:
    return hashlib.sha256(f"{kind}:{name}".encode()).hexdigest()


def _pause(kind: Subject, failures: int) -> timedelta:
    """How long after the last of so many failures the next attempt may come: doubled with each."""
    excess = failures - FREE_FAILURES[kind]
    if excess < 0:
        return timedelta(0)
    return timedelta(seconds=min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(excess, 10)))


def _touch(dialect: str, subject: str, now: datetime) -> Statement:
    text = upsert(
        dialect,
        table="login_failure",
        keys=["subject"],
        updates={"failures": "login_failure.failures"},
        columns="subject, failures, last_failure_at",
        source="VALUES (%s, 0, %s)",
    )
    return Statement(text, (subject, now.isoformat(sep=" ", timespec="milliseconds")))
