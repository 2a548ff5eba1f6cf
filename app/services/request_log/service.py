"""The request log after it is written: look one request up, and delete what is older than it is kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

from loguru import logger
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clock import utc_now
from app.database.retention import delete_in_batches, delete_regularly
from app.database.tables.request_log import RequestLog
from app.database.tables.statistics import UserTotals, Visitor
from app.database.transactions import read
from app.errors import RequestNotFound

RETENTION_INTERVAL_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One row of the log. The caller's address is left out: an id may be quoted to people who need not know it.

    `model` is None in rows of before revision 0009, which did not name it.
    """

    request_id: str
    user_id: str | None
    image_hash: str
    image_size: int | None
    category: Category
    confidence: float
    from_cache: bool
    processing_time_ms: int | None
    model: str | None
    created_at: datetime


class RequestLogService:
    """Reads and shortens `request_log`, and what else names users and addresses of single days.

    `zone` is that of the statistics' days.
    """

    def __init__(self, engine: AsyncEngine, zone: ZoneInfo) -> None:
        self._engine = engine
        self._zone = zone

    async def find(self, request_id: str) -> LoggedRequest:
        """Return the logged request with this id.

        Raises:
            RequestNotFound: there is none (any more).
        """

        async def select_row(connection: AsyncConnection) -> LoggedRequest:
            query = select(
                RequestLog.request_id,
                RequestLog.user_id,
                RequestLog.image_hash,
                RequestLog.image_size,
                RequestLog.category,
                RequestLog.confidence,
                RequestLog.from_cache,
                RequestLog.processing_time_ms,
                RequestLog.model,
                RequestLog.created_at,
            ).where(RequestLog.request_id == request_id)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise RequestNotFound
            return LoggedRequest(
                request_id=row.request_id,
                user_id=row.user_id,
                image_hash=row.image_hash,
                image_size=row.image_size,
                category=Category(row.category),
                confidence=float(row.confidence),
                from_cache=bool(row.from_cache),
                processing_time_ms=row.processing_time_ms,
                model=row.model,
                created_at=row.created_at,
            )

        return await read(self._engine, select_row)

    async def count_older_than(self, cutoff: datetime) -> int:
        """Return how many rows were created before `cutoff`."""

        async def count_rows(connection: AsyncConnection) -> int:
            query = select(func.count()).select_from(RequestLog).where(RequestLog.created_at < cutoff)
            return (await connection.execute(query)).scalar_one()

        return await read(self._engine, count_rows)

    async def delete_older_than(self, cutoff: datetime) -> int:
        """Delete the rows created before `cutoff` in small batches; return how many."""

        async def delete_batch(connection: AsyncConnection, rows: int) -> int:
            # By id: "DELETE ... LIMIT" is not in every SQLite, and MySQL takes no LIMIT in a subquery of IN.
            oldest = select(RequestLog.id).where(RequestLog.created_at < cutoff).limit(rows)
            ids = (await connection.scalars(oldest)).all()
            if ids:
                await connection.execute(delete(RequestLog).where(RequestLog.id.in_(ids)))
            return len(ids)

        return await delete_in_batches(self._engine, delete_batch)

    async def forget_visitors(self, cutoff: datetime) -> int:
        """Delete who was seen on the day of `cutoff` and before, in small batches; return how many rows.

        How many they were stays known. Today and yesterday are still counted, so they are kept in any case.
        """
        today = utc_now().astimezone(self._zone).date()
        last_day = min(cutoff.astimezone(self._zone).date(), today - timedelta(days=2))

        async def delete_batch(connection: AsyncConnection, limit: int) -> int:
            oldest = (
                select(Visitor.day, Visitor.kind, Visitor.visitor)
                .where(Visitor.day <= last_day)
                .order_by(Visitor.day, Visitor.kind, Visitor.visitor)
                .limit(limit)
            )
            rows = (await connection.execute(oldest)).all()
            for (day, kind), group in groupby(rows, key=lambda row: (row.day, row.kind)):
                is_in_group = Visitor.visitor.in_([row.visitor for row in group])
                await connection.execute(delete(Visitor).where(Visitor.day == day, Visitor.kind == kind, is_in_group))
            return len(rows)

        return await delete_in_batches(self._engine, delete_batch)

    async def forget_users(self, cutoff: datetime) -> int:
        """Delete the sums of users whose last request was before `cutoff`, in small batches; return how many."""

        async def delete_batch(connection: AsyncConnection, rows: int) -> int:
            row = UserTotals
            oldest = select(row.user_id).where(row.last_request_at < cutoff).limit(rows)
            users = (await connection.scalars(oldest)).all()
            if users:
                # A user may have come back meanwhile.
                is_old = row.user_id.in_(users), row.last_request_at < cutoff
                await connection.execute(delete(row).where(*is_old))
            return len(users)

        return await delete_in_batches(self._engine, delete_batch)

    async def keep_short(self, retention_days: int) -> None:
        """Delete what is older than `retention_days` once a day until the task is cancelled."""

        async def delete_old() -> None:
            cutoff = utc_now() - timedelta(days=retention_days)
            deleted = await self.delete_older_than(cutoff)
            await self.forget_visitors(cutoff)
            await self.forget_users(cutoff)
            logger.info("retention: deleted {} log rows older than {} days", deleted, retention_days)

        await delete_regularly(delete_old, seconds=RETENTION_INTERVAL_SECONDS, what="old log rows")
