"""API keys as their table has them."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.tables.api_keys import ApiKey
from app.database.transactions import read


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One row of `api_key`."""

    id: int
    key_hash: str = field(repr=False)
    scopes: frozenset[str]
    budget_micros: int | None
    expires_at: datetime | None
    revoked_at: datetime | None


class ApiKeyTable:
    """Looks keys up in the database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def find_by_id(self, key_id: int) -> StoredKey | None:
        """Return the key with this id, as `KeyStore` says."""

        async def find(connection: AsyncConnection) -> StoredKey | None:
            row = ApiKey
            columns = (row.key_hash, row.scopes, row.budget_micros, row.expires_at, row.revoked_at)
            found = (await connection.execute(select(*columns).where(row.id == key_id))).one_or_none()
            if found is None:
                return None
            key_hash, scopes, budget_micros, expires_at, revoked_at = found
            return StoredKey(key_id, key_hash, frozenset(scopes.split(",")), budget_micros, expires_at, revoked_at)

        return await read(self._engine, find)
