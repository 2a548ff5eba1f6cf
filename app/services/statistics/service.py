"""Statistics: the figures of the specification's section 7.4, the same on MySQL and SQLite.

They are read from the rollups (rollups.py) and by indexes, so they cost the same however long the log is; each, but for
a series, is one statement, so it sees one state of the database. Money is the ledger's sums
(app/services/spending/ledger.py), never a product of counts. Ratios, averages and money are computed here in decimals,
so that both databases give the same digits. "Today" is a day of STATS_TIMEZONE; an empty database gives zeros.
User ids are compared byte by byte on every database: "Device-A" and "device-a" are two users.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy import ColumnElement, ScalarSelect, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from app.categories import Category
from app.clients.thresholds import Measured
from app.clock import day_in_utc, utc_now
from app.config.settings import StatisticsSettings
from app.database.replica import Replica
from app.database.tables.classification import CachedImage
from app.database.tables.near_duplicates import SimilarPeriod
from app.database.tables.spending import SpendingTotals
from app.database.tables.statistics import CacheTotals, ErrorPeriod, PeriodTotals, VisitorCount
from app.database.transactions import read
from app.errors import ServerBusy
from app.services.feedback.accuracy import Accuracy, read_accuracy
from app.services.request_log.rollups import ADDRESS, USER, PhotoKind
from app.services.statistics.cascade import CascadeFigures, cascade_figures
from app.services.statistics.rankings import HotImage, UserStats, read_top_images, read_top_users
from app.services.statistics.rounding import money, percent, ratio
from app.services.statistics.shares import CategoryShare, Days, PhotoShare, read_category_shares, read_photo_shares
from app.services.statistics.spending import SpendingGroup, SpendingShare, read_spending
from app.services.statistics.timeseries import Bucket, BucketFigures, bucket_bounds, read_buckets

T = TypeVar("T")

# Series and ranges of days read at once by each process. A year keeps a connection busy for a second or two: without a
# bound, a dozen that ask for one would leave none for classification.
MAX_SERIES_AT_ONCE = 2
SERIES_WAIT_SECONDS = 10.0
# Of the accuracy where no days are named: feedback is rare.
ACCURACY_DAYS = 30


@dataclass(frozen=True, slots=True)
class DayStats:
    """Figures of one day; rates in percent, times in milliseconds, money in CURRENCY.

    `similar_hits` are those of the cache's hits that a similar photo's entry answered, `saved_by_similar` what they
    saved.
    """

    total_requests: int
    cache_hits: int
    cache_misses: int
    cache_hit_rate: float
    unique_users: int
    unique_ips: int
    avg_processing_time_ms: float
    estimated_cost: float
    cost_saved: float
    similar_hits: int
    saved_by_similar: float
    currency: str


@dataclass(frozen=True, slots=True)
class CacheEfficiency:
    """Figures of the whole cache since it exists; those of similar photos as in `DayStats`."""

    total_cached_images: int
    total_hits: int
    times_saved: int
    cost_saved: float
    avg_hit_per_image: float
    max_hits: int
    similar_hits: int
    saved_by_similar: float
    currency: str


class StatsService:
    """Computes the figures that ops people watch.

    `currency` is that of all money, `sure_answers` what was measured of the local model in a cascade.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: StatisticsSettings,
        replica: Replica | None = None,
        *,
        currency: str,
        sure_answers: Measured | None = None,
    ) -> None:
        self.currency = currency
        self._sure_answers = sure_answers
        self._engine = engine
        self._settings = settings
        self._replica = replica
        self._series = asyncio.Semaphore(MAX_SERIES_AT_ONCE)

    def today(self) -> date:
        """The current day in STATS_TIMEZONE."""
        return utc_now().astimezone(self._settings.timezone).date()

    async def day(self, day: date) -> DayStats:
        """Figures of one day (7.4.1)."""
        query = select(
            func.sum(PeriodTotals.requests).label("total"),
            func.sum(PeriodTotals.hits).label("hits"),
            func.sum(PeriodTotals.processing_time_ms).label("milliseconds"),
            func.sum(PeriodTotals.saved_micros).label("saved_micros"),
            self._spent_on(day).label("spent_micros"),
            _similar(SimilarPeriod.hits, self._is_on(day, SimilarPeriod.period_start)).label("similar_hits"),
            _similar(SimilarPeriod.saved_micros, self._is_on(day, SimilarPeriod.period_start)).label("similar_micros"),
            _visitors(day, USER).label("users"),
            _visitors(day, ADDRESS).label("ips"),
        ).where(self._is_on(day))

        async def select_figures(connection: AsyncConnection) -> DayStats:
            row = (await connection.execute(query)).one()
            total, hits = int(row.total or 0), int(row.hits or 0)
            return DayStats(
                total_requests=total,
                cache_hits=hits,
                cache_misses=total - hits,
                cache_hit_rate=percent(hits, total),
                unique_users=int(row.users or 0),
                unique_ips=int(row.ips or 0),
                avg_processing_time_ms=ratio(int(row.milliseconds or 0), total),
                estimated_cost=money(int(row.spent_micros or 0)),
                cost_saved=money(int(row.saved_micros or 0)),
                similar_hits=int(row.similar_hits or 0),
                saved_by_similar=money(int(row.similar_micros or 0)),
                currency=self.currency,
            )

        return await self._read(select_figures)

    async def timeseries(
        self,
        bucket: Bucket,
        start: datetime | None = None,
        end: datetime | None = None,
        category: Category | None = None,
    ) -> list[BucketFigures]:
        """Figures of each bucket from the one that `start` is in to the one before `end`; none is left out.

        Args:
            bucket: how long each is.
            start: left out, as much before `end` as a chart shows. Without an offset, a time of STATS_TIMEZONE.
            end: the same; left out, now, with the bucket that is not over.
            category: only the requests of this one are counted, as `read_buckets` says.

        Raises:
            InvalidRequest: `start` is not before `end`, or the buckets are too many.
            DatabaseUnavailable: as every reader.
            ServerBusy: the same, or others read series for too long.
        """
        zone = self._settings.timezone
        start, end = (moment and (moment if moment.tzinfo else moment.replace(tzinfo=zone)) for moment in (start, end))
        bounds = bucket_bounds(bucket, start, end or present(), zone)
        async with self._turn():
            return await self._read_series(bucket, bounds, category)

    async def latest_series(self, bucket: Bucket) -> list[BucketFigures]:
        """What `timeseries` gives without bounds, without waiting for a turn: for the process' own dashboard."""
        return await self._read_series(bucket, bucket_bounds(bucket, None, present(), self._settings.timezone))

    async def _read_series(
        self, bucket: Bucket, bounds: Sequence[datetime], category: Category | None = None
    ) -> list[BucketFigures]:
        return await read_buckets(self._read, bucket, bounds, self._settings, category)

    async def spending(self, by: SpendingGroup, days: Days) -> list[SpendingShare]:
        """What the calls of `days` have cost, the dearest group first."""
        (start, _), (_, end) = (day_in_utc(day, self._settings.timezone) for day in (days.first, days.last))
        return await self._read(partial(read_spending, by=by, start=start, end=end))

    async def cache_efficiency(self) -> CacheEfficiency:
        """Figures of the cache (7.4.2)."""
        query = select(
            func.sum(CacheTotals.images).label("images"),
            func.sum(CacheTotals.hits).label("hits"),
            func.sum(CacheTotals.saved_micros).label("saved_micros"),
            select(func.max(CachedImage.hit_count)).scalar_subquery().label("most"),
            _similar(SimilarPeriod.hits).label("similar_hits"),
            _similar(SimilarPeriod.saved_micros).label("similar_micros"),
        )

        async def select_figures(connection: AsyncConnection) -> CacheEfficiency:
            row = (await connection.execute(query)).one()
            images, hits = int(row.images or 0), int(row.hits or 0)
            return CacheEfficiency(
                total_cached_images=images,
                total_hits=hits,
                times_saved=hits - images,
                cost_saved=money(int(row.saved_micros or 0)),
                avg_hit_per_image=ratio(hits, images),
                max_hits=row.most or 0,
                similar_hits=int(row.similar_hits or 0),
                saved_by_similar=money(int(row.similar_micros or 0)),
                currency=self.currency,
            )

        return await self._read(select_figures)

    async def category_distribution(self, days: Days) -> list[CategoryShare]:
        """Shares of the categories in the requests of `days`, the largest first (7.4.3)."""
        zone = self._settings.timezone
        if days.are_one:
            return await read_category_shares(self._read, days, zone)
        async with self._turn():
            return await read_category_shares(self._read, days, zone)

    async def new_photos(self, kind: PhotoKind, days: Days) -> list[PhotoShare]:
        """Shares in the photos that became known in `days`: those that a model was asked about, with success."""
        zone = self._settings.timezone
        if days.are_one:
            return await read_photo_shares(self._read, kind, days, zone)
        async with self._turn():
            return await read_photo_shares(self._read, kind, days, zone)

    async def cascade(self, days: Days) -> CascadeFigures:
        """What the local model has answered in these days in the place of the one that is paid."""
        photos = await self.new_photos(PhotoKind.MODEL, days)
        spending = await self.spending(SpendingGroup.MODEL, days)
        return cascade_figures(photos, spending, self._sure_answers, self.currency)

    async def accuracy(self, days: Days | None = None) -> list[Accuracy]:
        """How often models were right, by what users have said in `days`; left out, the last ACCURACY_DAYS."""
        async with self._turn():
            return await self.latest_accuracy(days)

    async def latest_accuracy(self, days: Days | None = None) -> list[Accuracy]:
        """What `accuracy` gives, without waiting for a turn: for the process' own dashboard."""
        today = self.today()
        days = days or Days(today - timedelta(days=ACCURACY_DAYS - 1), today)
        (start, _), (_, end) = (day_in_utc(day, self._settings.timezone) for day in (days.first, days.last))
        return await self._read(partial(read_accuracy, start=start, end=end))

    async def errors(self, day: date) -> dict[str, int]:
        """How often each error of ours was answered on one day: code -> number, the most frequent first."""
        query = (
            select(ErrorPeriod.code, func.sum(ErrorPeriod.errors).label("errors"))
            .where(self._is_on(day, ErrorPeriod.period_start))
            .group_by(ErrorPeriod.code)
        )

        async def select_errors(connection: AsyncConnection) -> dict[str, int]:
            counts = {row.code: int(row.errors) for row in await connection.execute(query)}
            return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

        return await self._read(select_errors)

    async def top_users(self, limit: int) -> list[UserStats]:
        """The users with the most requests (7.4.5)."""
        return await self._read(partial(read_top_users, limit=limit))

    async def top_images(self, limit: int) -> list[HotImage]:
        """The images with the most hits (7.4.4)."""
        return await self._read(partial(read_top_images, limit=limit))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Let few read much at a time.

        Raises:
            ServerBusy: others read for too long.
        """
        try:
            async with asyncio.timeout(SERIES_WAIT_SECONDS):
                await self._series.acquire()
        except TimeoutError as error:
            raise ServerBusy from error
        try:
            yield
        finally:
            self._series.release()

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        return await (read(self._engine, work) if self._replica is None else self._replica.read(work))

    def _is_on(
        self, day: date, period_start: InstrumentedAttribute[datetime] = PeriodTotals.period_start
    ) -> ColumnElement[bool]:
        start, end = day_in_utc(day, self._settings.timezone)
        return and_(period_start >= start, period_start < end)

    def _spent_on(self, day: date) -> ScalarSelect[int]:
        is_on_day = self._is_on(day, SpendingTotals.period_start)
        return select(func.sum(SpendingTotals.cost_micros)).where(is_on_day).scalar_subquery()


def present() -> datetime:
    """The end of the current second, so that a bucket which begins with it is among those that are shown."""
    return utc_now() + timedelta(seconds=1)


def _similar(column: InstrumentedAttribute[int], *conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.sum(column)).where(*conditions).scalar_subquery()


def _visitors(day: date, kind: str) -> ScalarSelect[int]:
    return (
        select(func.sum(VisitorCount.visitors))
        .where(VisitorCount.day == day, VisitorCount.kind == kind)
        .scalar_subquery()
    )
