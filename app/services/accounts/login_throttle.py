"""Guessing passwords is slow, for each account and for each address (`app/services/throttle.py`)."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import TooManyLogins
from app.services.throttle import Subject, Throttle, household_of


class LoginThrottle:
    """Counts attempts to log in."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._throttle = Throttle(engine, TooManyLogins)

    async def begin(self, account: str, address: str | None) -> None:
        """Count an attempt as failed.

        Raises:
            TooManyLogins: it is too early for one; nothing is counted.
        """
        await self._throttle.begin(_attempt(account, address))

    async def succeed(self, account: str, address: str | None) -> None:
        """Take an attempt back: the account begins anew, and the address has one failure less."""
        await self._throttle.succeed(_attempt(account, address), forgets=(Subject.ACCOUNT,))


def _attempt(account: str, address: str | None) -> dict[Subject, str]:
    attempt = {Subject.ACCOUNT: account}
    return attempt if address is None else attempt | {Subject.ADDRESS: household_of(address)}
