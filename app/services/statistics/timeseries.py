"""Figures over time, from the quarters of an hour in `stats_period`: a row for each bucket leaves the database.

Days are those of STATS_TIMEZONE, of 23 or 25 hours where clocks change; hours begin when they do there.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.clock import day_in_utc
from app.config.settings import StatisticsSettings
from app.database.statements import EpochSeconds
from app.database.tables.spending import SpendingTotals
from app.database.tables.statistics import ErrorPeriod, PeriodTotals, VisitorCount
from app.errors import InvalidRequest
from app.services.request_log.rollups import PERIOD_MINUTES, USER
from app.services.statistics.rounding import money, percent, ratio


class Bucket(StrEnum):
    """How long one point of a series is."""

    QUARTER_HOUR = "15min"
    HOUR = "hour"
    DAY = "day"


_LENGTHS = {
    Bucket.QUARTER_HOUR: timedelta(minutes=PERIOD_MINUTES),
    Bucket.HOUR: timedelta(hours=1),
    Bucket.DAY: timedelta(days=1),
}
# A month of hours and the hour of a clock change; a year of days, for which up to two million sums are read.
MAX_NUMBERS = {Bucket.QUARTER_HOUR: 745, Bucket.HOUR: 745, Bucket.DAY: 367}
# So many are read at a time, which takes MySQL a fifth of a second where every shard and category is in use. A year in
# one would come near the limits of a transaction and of a replica's patience, and keep its connection all the while.
_NUMBERS_AT_A_TIME = {Bucket.QUARTER_HOUR: 745, Bucket.HOUR: 745, Bucket.DAY: 31}
# Before the last bucket, where no start is given: six hours, a day, thirty days in all.
_USUAL_NUMBERS = {Bucket.QUARTER_HOUR: 23, Bucket.HOUR: 23, Bucket.DAY: 29}


@dataclass(frozen=True, slots=True)
class BucketFigures:
    """Figures of one bucket; units as in `DayStats`.

    `users` is None but for days: they are counted by the day. Users, errors and `money_spent` of one category are None.
    """

    start: datetime
    requests: int
    hits: int
    misses: int
    hit_rate: float
    users: int | None
    money_spent: float | None
    money_saved: float
    latency: float
    errors: int | None


# Runs what only reads.
Reader = Callable[[Callable[[AsyncConnection], Awaitable[list[BucketFigures]]]], Awaitable[list[BucketFigures]]]


def bucket_bounds(bucket: Bucket, start: datetime | None, end: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return where the buckets begin, in UTC, and where the last one ends.

    Args:
        bucket: how long each is.
        start: is in the first; None: a usual number of buckets before `end`.
        end: is in the last, or its end.
        zone: whose days and hours they are.

    Raises:
        InvalidRequest: `start` is not before `end`, or they are too many.
    """
    length = _LENGTHS[bucket]
    # Arithmetic of one zone is that of its clocks: a day earlier is the same time of the day before. Hours are real.
    end = end.astimezone(zone if bucket is Bucket.DAY else UTC)
    if start is None:
        # `end` itself is in no bucket: at the first moment of one, those before it are shown.
        start = end - timedelta(microseconds=1) - _USUAL_NUMBERS[bucket] * length
    if start >= end:
        raise InvalidRequest("'from' must be before 'to'.")
    if (end - start) / length > MAX_NUMBERS[bucket]:
        raise InvalidRequest(
            "These are more than {most} buckets. Choose longer ones, or less time.",
            values={"most": MAX_NUMBERS[bucket]},
        )
    if bucket is Bucket.DAY:
        day = start.astimezone(zone).date()
        bounds = [day_in_utc(day, zone)[0]]
        while bounds[-1] < end:
            _, midnight = day_in_utc(day, zone)
            day += timedelta(days=1)
            bounds.append(midnight)
        return bounds
    first, _ = day_in_utc(start.astimezone(zone).date(), zone)
    first += (start - first) // length * length
    return [first + number * length for number in range(-((first - end) // length) + 1)]


async def read_buckets(
    read: Reader,
    bucket: Bucket,
    bounds: Sequence[datetime],
    settings: StatisticsSettings,
    category: Category | None = None,
) -> list[BucketFigures]:
    """Return the figures between each two of `bounds`.

    Args:
        read: runs what only reads.
        bucket: how long each is.
        bounds: as `bucket_bounds` returns them.
        settings: whose days they are.
        category: counts the requests of this one only; then users, errors and what was spent, which are not counted by
            category, are None.

    Raises:
        DatabaseUnavailable, ServerBusy: as every reader.
    """
    size = _NUMBERS_AT_A_TIME[bucket]
    figures = []
    for first in range(0, len(bounds) - 1, size):
        figures += await _read_some(read, bucket, bounds[first : first + size + 1], settings, category)
    return figures


async def _read_some(
    read: Reader,
    bucket: Bucket,
    bounds: Sequence[datetime],
    settings: StatisticsSettings,
    category: Category | None,
) -> list[BucketFigures]:
    # First the many rows of each quarter of an hour, as they lie in the primary key: which bucket one belongs to costs
    # more than to add it.
    quarters_of = (
        select(
            PeriodTotals.period_start,
            func.sum(PeriodTotals.requests).label("requests"),
            func.sum(PeriodTotals.hits).label("hits"),
            func.sum(PeriodTotals.processing_time_ms).label("milliseconds"),
            func.sum(PeriodTotals.saved_micros).label("saved_micros"),
        )
        .where(PeriodTotals.period_start >= bounds[0], PeriodTotals.period_start < bounds[-1])
        .group_by(PeriodTotals.period_start)
    )
    if category is not None:
        quarters_of = quarters_of.where(PeriodTotals.category == category.value)
    quarters = quarters_of.subquery()
    totals = select(
        _number(bounds, quarters.c.period_start).label("number"),
        func.sum(quarters.c.requests).label("requests"),
        func.sum(quarters.c.hits).label("hits"),
        func.sum(quarters.c.milliseconds).label("milliseconds"),
        func.sum(quarters.c.saved_micros).label("saved_micros"),
    ).group_by("number")
    spending_quarters = (
        select(SpendingTotals.period_start, func.sum(SpendingTotals.cost_micros).label("cost_micros"))
        .where(SpendingTotals.period_start >= bounds[0], SpendingTotals.period_start < bounds[-1])
        .group_by(SpendingTotals.period_start)
        .subquery()
    )
    spending = select(
        _number(bounds, spending_quarters.c.period_start).label("number"),
        func.sum(spending_quarters.c.cost_micros).label("cost_micros"),
    ).group_by("number")
    error_quarters = (
        select(ErrorPeriod.period_start, func.sum(ErrorPeriod.errors).label("errors"))
        .where(ErrorPeriod.period_start >= bounds[0], ErrorPeriod.period_start < bounds[-1])
        .group_by(ErrorPeriod.period_start)
        .subquery()
    )
    failures = select(
        _number(bounds, error_quarters.c.period_start).label("number"),
        func.sum(error_quarters.c.errors).label("errors"),
    ).group_by("number")
    days = [start.astimezone(settings.timezone).date() for start in bounds[:-1]]
    visitors = (
        select(VisitorCount.day, func.sum(VisitorCount.visitors).label("users"))
        .where(VisitorCount.kind == USER, VisitorCount.day >= days[0], VisitorCount.day <= days[-1])
        .group_by(VisitorCount.day)
    )

    async def select_figures(connection: AsyncConnection) -> list[BucketFigures]:
        rows = {int(row.number): row for row in await connection.execute(totals)}
        errors, spent, users = {}, {}, {}
        if category is None:
            errors = {int(row.number): int(row.errors) for row in await connection.execute(failures)}
            spent = {int(row.number): int(row.cost_micros) for row in await connection.execute(spending)}
        if category is None and bucket is Bucket.DAY:
            users = {row.day: int(row.users) for row in await connection.execute(visitors)}
        figures = []
        for number, start in enumerate(bounds[:-1]):
            row = rows.get(number)
            requests, hits = (int(row.requests), int(row.hits)) if row else (0, 0)
            figures.append(
                BucketFigures(
                    start=start,
                    requests=requests,
                    hits=hits,
                    misses=requests - hits,
                    hit_rate=percent(hits, requests),
                    users=users.get(days[number], 0) if category is None and bucket is Bucket.DAY else None,
                    money_spent=money(spent.get(number, 0)) if category is None else None,
                    money_saved=money(int(row.saved_micros)) if row else 0.0,
                    latency=ratio(int(row.milliseconds), requests) if row else 0.0,
                    errors=errors.get(number, 0) if category is None else None,
                )
            )
        return figures

    return await read(select_figures)


def _number(bounds: Sequence[datetime], period_start: ColumnElement[datetime]) -> ColumnElement[int]:
    """The number of the bucket that a row belongs to, for rows within `bounds`.

    Buckets of one length follow each other, but for the days on which clocks change: one branch for each such run.
    """
    seconds = EpochSeconds(period_start)
    # First bucket, its start, the length of each, and the end.
    runs: list[tuple[int, int, int, datetime]] = []
    for number, (start, end) in enumerate(pairwise(bounds)):
        # A zone that crosses the date line leaves out a day; nothing falls into it.
        length = max(1, int((end - start).total_seconds()))
        if runs and runs[-1][2] == length:
            runs[-1] = (*runs[-1][:3], end)
        else:
            runs.append((number, int(start.timestamp()), length, end))
    numbers = [(end, (seconds - since) // length + first) for first, since, length, end in runs]
    *others, (_, last) = numbers
    return case(*((period_start < end, number) for end, number in others), else_=last) if others else last
