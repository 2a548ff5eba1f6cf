"""What an operator does with keys: make one, which is shown once, and revoke one. Both are in the audit log."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.api_keys.key import NAME_MAX_CHARACTERS, Scope, hash_of, new_key_text
from app.services.api_keys.rows import insert_key, revoke_key
from app.services.audit.service import Action, AuditLog


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; its text is nowhere else."""

    id: int
    text: str = field(repr=False)


async def create_key(
    engine: AsyncEngine,
    *,
    name: str,
    scopes: Collection[Scope],
    actor: str,
    budget_micros: int | None = None,
    rate_per_minute: int | None = None,
    expires_at: datetime | None = None,
) -> NewKey:
    """Make a key.

    Args:
        engine: the database.
        name: for people, who may give two keys the same one.
        scopes: what it may do; at least one.
        actor: who makes it, for the audit log.
        budget_micros: what it may spend a day, in millionths of CURRENCY; None: no limit of its own.
        rate_per_minute: how many requests it may make; None: no limit of its own.
        expires_at: from when on it does not count, aware; None: never.

    Raises:
        ValueError: the name or the scopes are not valid.
        DatabaseUnavailable, ServerBusy: it cannot be kept.
    """
    if not (0 < len(name) <= NAME_MAX_CHARACTERS and name.isprintable() and name.strip() == name):
        raise ValueError(f"a name has 1 to {NAME_MAX_CHARACTERS} visible characters")
    if not scopes:
        raise ValueError(f"a key needs a scope: {', '.join(Scope)}")
    text = new_key_text()
    ordered = [scope for scope in Scope if scope in scopes]
    key_id = await insert_key(
        engine,
        name=name,
        key_hash=hash_of(text),
        scopes=ordered,
        budget_micros=budget_micros,
        rate_per_minute=rate_per_minute,
        expires_at=expires_at,
    )
    details = {
        "name": name,
        "scopes": [scope.value for scope in ordered],
        "expires_at": None if expires_at is None else expires_at.isoformat(),
    }
    await AuditLog(engine).record(Action.KEY_CREATED, actor, f"key:{key_id}", details=details)
    return NewKey(key_id, text)


async def end_key(engine: AsyncEngine, key_id: int, *, actor: str) -> bool:
    """Revoke a key, for good; every process refuses it within two seconds. Return False where there is none.

    Raises:
        DatabaseUnavailable, ServerBusy: it cannot be revoked.
    """
    is_there = await revoke_key(engine, key_id)
    if is_there:
        await AuditLog(engine).record(Action.KEY_REVOKED, actor, f"key:{key_id}")
    return is_there
