"""What people may ask of a service that knows them: to be told what it keeps, and to be forgotten."""

from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.privacy.export import export
from app.services.privacy.forgetting import Forgetting, Forgotten


class PrivacyService:
    """Forgets and exports users by the id that the log knows them by: what a client sends, or `account:ID`.

    Space around an id counts no more here than where a client sends it (app/schemas/common.py): MySQL would take an id
    with a space behind it for that without, and SQLite for another.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.forgetting = Forgetting(engine)

    async def forget(self, user_id: str) -> Forgotten:
        """Make a user nameless; raises as `Forgetting.forget`."""
        return await self.forgetting.forget(user_id.strip())

    async def export(self, user_id: str) -> AsyncIterator[bytes]:
        """Return all that is kept of a user, as one JSON document in pieces.

        Raises:
            DatabaseUnavailable, ServerBusy: before the first piece, and from the pieces.
        """
        pieces = export(self._engine, user_id.strip())
        first = await anext(pieces)

        async def all_pieces() -> AsyncIterator[bytes]:
            yield first
            async for piece in pieces:
                yield piece

        return all_pieces()
