"""Statistics: the figures of the specification's section 7.4, the same on MySQL and SQLite.

The database counts and sums; ratios, averages and money are computed here in decimals, so that both databases give
the same digits. "Today" is a day of STATS_TIMEZONE; an empty database gives zeros. Which user ids are one user is the
database's matter: the specification's collation on MySQL takes "Device-A" and "device-a" for the same, SQLite does not.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal

from sqlalchemy import ColumnElement, Integer, and_, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clock import day_in_utc, utc_now
from app.config import StatisticsSettings
from app.database.tables import CachedImage, RequestLog
from app.database.transactions import read


@dataclass(frozen=True, slots=True)
class DayStats:
    """Figures of one day; rates in percent, times in milliseconds, money in the currency of COST_PER_API_CALL."""

    total_requests: int
    cache_hits: int
    cache_misses: int
    cache_hit_rate: float
    unique_users: int
    unique_ips: int
    avg_processing_time_ms: float
    estimated_cost: float
    cost_saved: float


@dataclass(frozen=True, slots=True)
class CacheEfficiency:
    """Figures of the whole cache since it exists."""

    total_cached_images: int
    total_hits: int
    times_saved: int
    cost_saved: float
    avg_hit_per_image: float
    max_hits: int


@dataclass(frozen=True, slots=True)
class CategoryShare:
    """One category's share of a day's requests, in percent."""

    category: Category
    count: int
    percentage: float
    avg_confidence: float


@dataclass(frozen=True, slots=True)
class UserStats:
    """One user's requests since the log begins."""

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


class StatsService:
    """Computes the figures that ops people watch."""

    def __init__(self, engine: AsyncEngine, settings: StatisticsSettings) -> None:
        self._engine = engine
        self._settings = settings

    def today(self) -> date:
        """The current day in STATS_TIMEZONE."""
        return utc_now().astimezone(self._settings.timezone).date()

    async def day(self, day: date) -> DayStats:
        """Figures of one day (7.4.1)."""
        query = select(
            func.count().label("total"),
            func.sum(case((RequestLog.from_cache == 1, 1), else_=0)).label("hits"),
            func.sum(case((RequestLog.from_cache == 0, 1), else_=0)).label("misses"),
            func.count(RequestLog.user_id.distinct()).label("users"),
            func.count(RequestLog.ip_address.distinct()).label("ips"),
            func.sum(RequestLog.processing_time_ms).label("milliseconds"),
            func.count(RequestLog.processing_time_ms).label("timed"),
        ).where(self._is_on(day))

        async def select_figures(connection: AsyncConnection) -> DayStats:
            row = (await connection.execute(query)).one()
            hits, misses = int(row.hits or 0), int(row.misses or 0)
            return DayStats(
                total_requests=row.total,
                cache_hits=hits,
                cache_misses=misses,
                cache_hit_rate=_percent(hits, row.total),
                unique_users=row.users,
                unique_ips=row.ips,
                avg_processing_time_ms=_ratio(row.milliseconds or 0, row.timed),
                estimated_cost=self._cost(misses),
                cost_saved=self._cost(hits),
            )

        return await read(self._engine, select_figures)

    async def cache_efficiency(self) -> CacheEfficiency:
        """Figures of the cache (7.4.2)."""
        query = select(
            func.count().label("images"),
            func.sum(CachedImage.hit_count).label("hits"),
            func.max(CachedImage.hit_count).label("most"),
        )

        async def select_figures(connection: AsyncConnection) -> CacheEfficiency:
            row = (await connection.execute(query)).one()
            hits = int(row.hits or 0)
            return CacheEfficiency(
                total_cached_images=row.images,
                total_hits=hits,
                times_saved=hits - row.images,
                cost_saved=self._cost(hits - row.images),
                avg_hit_per_image=_ratio(hits, row.images),
                max_hits=row.most or 0,
            )

        return await read(self._engine, select_figures)

    async def category_distribution(self, day: date) -> list[CategoryShare]:
        """Shares of the categories in one day's requests, the largest first (7.4.3)."""
        # Whole ten-thousandths, because SQLite would sum binary fractions.
        confidence = cast(func.round(RequestLog.confidence * 10_000), Integer)
        query = (
            select(RequestLog.category, func.count().label("requests"), func.sum(confidence).label("confidence"))
            .where(self._is_on(day))
            .group_by(RequestLog.category)
            .order_by(func.count().desc(), RequestLog.category)
        )

        async def select_shares(connection: AsyncConnection) -> list[CategoryShare]:
            rows = (await connection.execute(query)).all()
            total = sum(row.requests for row in rows)
            return [
                CategoryShare(
                    category=Category(row.category),
                    count=row.requests,
                    percentage=_percent(row.requests, total),
                    avg_confidence=_ratio(Decimal(int(row.confidence)) / 10_000, row.requests, digits=4),
                )
                for row in rows
            ]

        return await read(self._engine, select_shares)

    async def top_users(self, limit: int) -> list[UserStats]:
        """The users with the most requests (7.4.5)."""
        hits = func.sum(case((RequestLog.from_cache == 1, 1), else_=0))
        query = (
            select(
                RequestLog.user_id,
                func.count().label("requests"),
                hits.label("hits"),
                func.min(RequestLog.created_at).label("first"),
                func.max(RequestLog.created_at).label("last"),
            )
            .where(RequestLog.user_id.is_not(None))
            .group_by(RequestLog.user_id)
            .order_by(func.count().desc(), RequestLog.user_id)
            .limit(limit)
        )

        async def select_users(connection: AsyncConnection) -> list[UserStats]:
            return [
                UserStats(
                    user_id=str(row.user_id),
                    request_count=row.requests,
                    cache_hits=int(row.hits),
                    cache_hit_rate=_percent(int(row.hits), row.requests),
                    first_request=row.first,
                    last_request=row.last,
                )
                for row in await connection.execute(query)
            ]

        return await read(self._engine, select_users)

    async def top_images(self, limit: int) -> list[HotImage]:
        """The images with the most hits (7.4.4)."""
        query = (
            select(
                CachedImage.image_hash,
                CachedImage.category,
                CachedImage.confidence,
                CachedImage.hit_count,
                CachedImage.created_at,
                CachedImage.last_hit_at,
            )
            .order_by(CachedImage.hit_count.desc(), CachedImage.id)
            .limit(limit)
        )

        async def select_images(connection: AsyncConnection) -> list[HotImage]:
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

        return await read(self._engine, select_images)

    def _is_on(self, day: date) -> ColumnElement[bool]:
        start, end = day_in_utc(day, self._settings.timezone)
        return and_(RequestLog.created_at >= start, RequestLog.created_at < end)

    def _cost(self, calls: int) -> float:
        return float(calls * self._settings.cost_per_call)


def _ratio(numerator: Decimal | int, denominator: int, *, digits: int = 2) -> float:
    """The quotient, rounded half up as MySQL's ROUND does; 0 where there is nothing to divide by."""
    if denominator == 0:
        return 0.0
    quotient = Decimal(numerator) / Decimal(denominator)
    return float(quotient.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP))


def _percent(part: int, whole: int) -> float:
    return _ratio(Decimal(part) * 100, whole)
