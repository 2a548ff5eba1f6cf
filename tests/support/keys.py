"""API keys for tests."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.services.api_keys.administration import NewKey, create_key, end_key
from app.services.api_keys.key import Scope

ADMIN_API_KEY = "an-admin-key-for-tests"


DEADLINE_SECONDS = 180


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; nothing tells a test when a process has looked at the table of keys."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - a process that has looked tells nothing
            await asyncio.sleep(0.02)


async def key_of(
    engine: AsyncEngine,
    *scopes: Scope,
    expires_at: datetime | None = None,
    budget_micros: int | None = None,
    rate_per_minute: int | None = None,
) -> NewKey:
    """Make a key; one without a scope may classify."""
    return await create_key(
        engine,
        name="tests",
        scopes=scopes or (Scope.CLASSIFY,),
        actor="tests",
        expires_at=expires_at,
        budget_micros=budget_micros,
        rate_per_minute=rate_per_minute,
    )


async def expired_key(engine: AsyncEngine, *scopes: Scope) -> NewKey:
    """A key whose time is over."""
    return await key_of(engine, *scopes, expires_at=utc_now() - timedelta(seconds=1))


async def revoked_key(engine: AsyncEngine, *scopes: Scope) -> NewKey:
    """A key that was revoked."""
    key = await key_of(engine, *scopes)
    await end_key(engine, key.id, actor="tests")
    return key
