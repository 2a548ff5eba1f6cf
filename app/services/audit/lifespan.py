"""What a process needs of the audit log: events that are older than it is kept are deleted."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.runtime.background import running
from app.services.audit.service import AuditLog


@asynccontextmanager
async def open_audit(engine: AsyncEngine, *, retention_days: int) -> AsyncIterator[AuditLog]:
    """Record events for the length of the block.

    Args:
        engine: the database.
        retention_days: how long they are kept; 0: without end.
    """
    audit = AuditLog(engine)
    async with AsyncExitStack() as stack:
        if retention_days:
            await stack.enter_async_context(running(audit.keep_short(retention_days), name="audit-retention"))
        yield audit
