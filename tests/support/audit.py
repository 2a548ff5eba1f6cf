"""What the audit log holds."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.tables.audit import AuditEntry


async def entries(engine: AsyncEngine) -> list[tuple[str, str, str | None, str | None]]:
    """Action, actor, subject and address of each event, in their order."""
    row = AuditEntry
    async with engine.connect() as connection:
        query = select(row.action, row.actor, row.subject, row.ip_address).order_by(row.id)
        rows = (await connection.execute(query)).all()
    return [(each.action, each.actor, each.subject, each.ip_address) for each in rows]


async def details_of(engine: AsyncEngine) -> list[dict[str, Any]]:
    """The details of each event, in their order."""
    async with engine.connect() as connection:
        return list(await connection.scalars(select(AuditEntry.details).order_by(AuditEntry.id)))
