"""What a process needs of API keys: all of them, read once before it serves and every second from then on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import CacheSettings
from app.runtime.background import running
from app.services.api_keys.service import ApiKeyService
from app.services.audit.service import AuditLog


@asynccontextmanager
async def open_api_keys(
    settings: CacheSettings, engine: AsyncEngine, *, audit: AuditLog
) -> AsyncIterator[ApiKeyService]:
    """Know the keys for the length of the block.

    Raises:
        AppError: they cannot be read. A process that does not know whether there are keys must not serve.
    """
    keys = ApiKeyService(engine, admin_key=settings.admin_api_key.get_secret_value(), audit=audit)
    await keys.look()
    async with running(keys.run(), name="api-keys"):
        yield keys
