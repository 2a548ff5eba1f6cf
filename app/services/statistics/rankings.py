"""The busiest users and the images with the most hits, each read by an index, however many there are."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.database.tables.classification import CachedImage
from app.database.tables.statistics import UserTotals
from app.services.statistics.rounding import percent


@dataclass(frozen=True, slots=True)
class UserStats:
    """One user's requests since the first."""

    user_id: str
    request_count: int
    cache_hits: int
    cache_hit_rate: float
    first_request: datetime
    last_request: datetime


@dataclass(frozen=True, slots=True)
class HotImage:
    """One often-seen image; `lifetime_days` are whole days from its first to its last request."""

    image_hash: str
    category: Category
    confidence: float
    hit_count: int
    created_at: datetime
    last_hit_at: datetime
    lifetime_days: int


async def read_top_users(connection: AsyncConnection, *, limit: int) -> list[UserStats]:
    """The users with the most requests (7.4.5)."""
    # The order of the index, backwards. Which rows they are is found in the index alone: asked for whole rows,
    # MySQL and MariaDB would rather read and sort the table. They are sorted by the columns of those rows: SQLite
    # 3.46 would walk through all users for an order that their own index has.
    order = (UserTotals.requests.desc(), UserTotals.user_id.desc())
    busiest = select(UserTotals.user_id, UserTotals.requests).order_by(*order).limit(limit).subquery()
    query = (
        select(UserTotals)
        .join(busiest, UserTotals.user_id == busiest.c.user_id)
        .order_by(busiest.c.requests.desc(), busiest.c.user_id.desc())
    )

    return [
        UserStats(
            user_id=row.user_id,
            request_count=row.requests,
            cache_hits=row.hits,
            cache_hit_rate=percent(row.hits, row.requests),
            first_request=row.first_request_at,
            last_request=row.last_request_at,
        )
        for row in await connection.execute(query)
    ]


async def read_top_images(connection: AsyncConnection, *, limit: int) -> list[HotImage]:
    """The images with the most hits (7.4.4)."""
    # As for the users; the index ends with the id.
    order = (CachedImage.hit_count.desc(), CachedImage.id.desc())
    hottest = select(CachedImage.id, CachedImage.hit_count).order_by(*order).limit(limit).subquery()
    query = (
        select(
            CachedImage.image_hash,
            CachedImage.category,
            CachedImage.confidence,
            CachedImage.hit_count,
            CachedImage.created_at,
            CachedImage.last_hit_at,
        )
        .join(hottest, CachedImage.id == hottest.c.id)
        .order_by(hottest.c.hit_count.desc(), hottest.c.id.desc())
    )

    return [
        HotImage(
            image_hash=row.image_hash,
            category=Category(row.category),
            confidence=float(row.confidence),
            hit_count=row.hit_count,
            created_at=row.created_at,
            last_hit_at=row.last_hit_at,
            lifetime_days=(row.last_hit_at - row.created_at).days,
        )
        for row in await connection.execute(query)
    ]
