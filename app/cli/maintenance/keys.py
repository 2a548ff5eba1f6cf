"""What `keys` does with the configured database. Importing it takes a second."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.maintenance.database import CannotBeDone, on_current_tables, operator
from app.clock import utc_now
from app.config.settings import Settings
from app.services.api_keys.administration import NewKey, create_key, end_key
from app.services.api_keys.key import ApiKey, Scope
from app.services.api_keys.rows import select_keys

__all__ = ["CannotBeDone", "create", "list_all", "revoke", "state_of"]


def create(
    settings: Settings,
    *,
    name: str,
    scopes: Sequence[str],
    budget_micros: int | None,
    rate_per_minute: int | None,
    lifetime: timedelta | None,
) -> NewKey:
    """Make a key.

    Raises:
        ValueError: the name or a scope is not valid.
        CannotBeDone: the database cannot be reached, or the tables are not those of this version.
    """
    unknown = set(scopes) - set(Scope)
    if unknown:
        raise ValueError(f"there is no scope {min(unknown)!r}; there are {', '.join(Scope)}")

    async def run(engine: AsyncEngine) -> NewKey:
        return await create_key(
            engine,
            name=name,
            scopes=[Scope(scope) for scope in scopes],
            actor=operator(),
            budget_micros=budget_micros,
            rate_per_minute=rate_per_minute,
            expires_at=None if lifetime is None else utc_now() + lifetime,
        )

    return on_current_tables(settings, run)


def list_all(settings: Settings) -> list[ApiKey]:
    """Return all keys; raises CannotBeDone as `create`."""
    return on_current_tables(settings, select_keys)


def revoke(settings: Settings, key_id: int) -> bool:
    """Revoke a key; return whether there is one with this id. Raises CannotBeDone as `create`."""

    async def run(engine: AsyncEngine) -> bool:
        return await end_key(engine, key_id, actor=operator())

    return on_current_tables(settings, run)


def state_of(key: ApiKey) -> str:
    """Return "valid", "revoked" or "expired"."""
    if key.revoked_at is not None:
        return "revoked"
    return "valid" if key.counts(datetime.now(UTC)) else "expired"
