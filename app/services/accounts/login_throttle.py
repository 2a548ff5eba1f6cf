"""Guessing passwords is slow: after some failures in a row, an account or an address has to wait for the next try.

An attempt counts as failed before its password is looked at, and is taken back when it was right: many at once do not
outrun the count. All processes share it, in the database. Sign-ups from an address are counted in the same way, and
none is taken back: also the refused ones ask whether a name is taken.
"""

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.statements import Statement, execute, upsert
from app.database.tables.accounts import LoginFailure
from app.database.transactions import write
from app.errors import AppError, TooManyLogins, TooManySignUps

ACCOUNT, ADDRESS, SIGN_UP = "account", "address", "sign_up"
# Failures that cost nothing: typing errors, and a household or an office behind one address.
FREE_FAILURES = {ACCOUNT: 5, ADDRESS: 30, SIGN_UP: 10}
FIRST_PAUSE_SECONDS = 1.0
# Bounded, since a stranger can lock an account out for that long.
MAX_PAUSE_SECONDS = 60.0
# What a household or a server is given at least (RFC 6177, 2).
IPV6_NETWORK_BITS = 64
FORGOTTEN_AFTER = timedelta(hours=1)


class LoginThrottle:
    """Counts attempts in `login_failure`, under hashes of what they are counted for."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def begin(self, account: str, address: str | None) -> None:
        """Count an attempt as failed.

        Raises:
            TooManyLogins: it is too early for one; nothing is counted.
        """
        await self._count(_subjects(account, address), TooManyLogins)

    async def sign_up(self, address: str | None) -> None:
        """Count a sign-up from an address, where that is known.

        Raises:
            TooManySignUps: it is too early for one; nothing is counted.
        """
        if address is not None:
            await self._count({SIGN_UP: _subject(SIGN_UP, _household(address))}, TooManySignUps)

    async def _count(self, subjects: Mapping[str, str], too_early: type[AppError]) -> None:
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
                wait = _pause(kind, failures) - age
                if wait > timedelta(0):
                    raise too_early(retry_after_seconds=wait.total_seconds())
                await connection.execute(
                    update(LoginFailure)
                    .where(LoginFailure.subject == subject)
                    .values(failures=failures + 1, last_failure_at=now)
                )

        await write(self._engine, count)

    async def succeed(self, account: str, address: str | None) -> None:
        """Take an attempt back: the account begins anew, and the address has one failure less."""
        subjects = _subjects(account, address)

        async def take_back(connection: AsyncConnection) -> None:
            await connection.execute(delete(LoginFailure).where(LoginFailure.subject == subjects[ACCOUNT]))
            if ADDRESS in subjects:
                statement = "UPDATE login_failure SET failures = failures - 1 WHERE subject = %s AND failures > 0"
                await execute(connection, Statement(statement, (subjects[ADDRESS],)))
            forgotten = datetime.now(UTC).replace(tzinfo=None) - FORGOTTEN_AFTER
            await connection.execute(delete(LoginFailure).where(LoginFailure.last_failure_at < forgotten))

        await write(self._engine, take_back)


def _subjects(account: str, address: str | None) -> dict[str, str]:
    names: Sequence[tuple[str, str | None]] = [(ACCOUNT, account), (ADDRESS, address and _household(address))]
    return {kind: _subject(kind, name) for kind, name in names if name is not None}


def _subject(kind: str, name: str) -> str:
    return hashlib.sha256(f"{kind}:{name}".encode()).hexdigest()


def _household(address: str) -> str:
    """Return an IPv4 address as it is, and of an IPv6 address the network: its owner has all of the 2^64 addresses."""
    if ipaddress.ip_address(address).version == 4:
        return address
    return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))


def _pause(kind: str, failures: int) -> timedelta:
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
