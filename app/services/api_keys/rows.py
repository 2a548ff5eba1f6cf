"""Rows of the table of API keys. They are added and revoked, never changed otherwise, and never deleted."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables import api_keys
from app.database.transactions import MAX_ATTEMPTS, read, write
from app.services.api_keys.key import ApiKey, Scope

_ROW = api_keys.ApiKey
_COLUMNS = (
    _ROW.id,
    _ROW.name,
    _ROW.key_hash,
    _ROW.scopes,
    _ROW.created_at,
    _ROW.budget_micros,
    _ROW.rate_per_minute,
    _ROW.expires_at,
    _ROW.revoked_at,
)


async def select_keys(engine: AsyncEngine, *, max_attempts: int = MAX_ATTEMPTS) -> list[ApiKey]:
    """Return all keys, in the order in which they were made, those that no longer count too."""

    async def find(connection: AsyncConnection) -> list[ApiKey]:
        rows = (await connection.execute(select(*_COLUMNS).order_by(_ROW.id))).all()
        return [
            ApiKey(
                id=row.id,
                name=row.name,
                key_hash=row.key_hash,
                scopes=frozenset(row.scopes.split(",")),
                created_at=row.created_at,
                budget_micros=row.budget_micros,
                rate_per_minute=row.rate_per_minute,
                expires_at=row.expires_at,
                revoked_at=row.revoked_at,
            )
            for row in rows
        ]

    return await read(engine, find, max_attempts=max_attempts)


async def insert_key(
    engine: AsyncEngine,
    *,
    name: str,
    key_hash: str,
    scopes: Sequence[Scope],
    budget_micros: int | None,
    rate_per_minute: int | None,
    expires_at: datetime | None,
) -> int:
    """Add a key and return its id."""
    values = {
        "name": name,
        "key_hash": key_hash,
        "scopes": ",".join(scopes),
        "budget_micros": budget_micros,
        "rate_per_minute": rate_per_minute,
        "created_at": utc_now(),
        "expires_at": expires_at,
    }

    async def add(connection: AsyncConnection) -> int:
        # There already after a try whose COMMIT had no answer.
        if (known := await connection.scalar(select(_ROW.id).where(_ROW.key_hash == key_hash))) is not None:
            return known
        inserted = await connection.execute(insert(_ROW).values(**values))
        assert inserted.inserted_primary_key is not None  # noqa: S101 - an INSERT of one row
        return int(inserted.inserted_primary_key[0])

    return await write(engine, add)


async def revoke_key(engine: AsyncEngine, key_id: int) -> bool:
    """Revoke a key; return False where there is none with this id. A key that was revoked before stays so."""

    async def revoke(connection: AsyncConnection) -> bool:
        await connection.execute(
            update(_ROW).where(_ROW.id == key_id, _ROW.revoked_at.is_(None)).values(revoked_at=utc_now())
        )
        return await connection.scalar(select(_ROW.id).where(_ROW.id == key_id)) is not None

    return await write(engine, revoke)
