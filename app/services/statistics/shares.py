"""How requests, and photos that became known, spread over what they are counted by, in a range of days."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Protocol, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.clock import day_in_utc
from app.database.tables.statistics import NewPhotoPeriod, PeriodTotals
from app.errors import InvalidRequest
from app.services.request_log.rollups import CONFIDENCE_BANDS, PhotoKind
from app.services.statistics.rounding import percent, ratio

T = TypeVar("T")

MAX_DAYS = 367
# As of series: more at a time would keep a transaction, and a connection, for long.
_DAYS_AT_A_TIME = 31


class Reader(Protocol):
    """Runs what only reads."""

    async def __call__(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what `work` returns."""


@dataclass(frozen=True, slots=True)
class Days:
    """The days from `first` to `last`, both included.

    Raises:
        InvalidRequest: they are the wrong way round, or too many.
    """

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise InvalidRequest("'from' must not be after 'to'.")
        if (self.last - self.first).days >= MAX_DAYS:
            raise InvalidRequest("These are more than {most} days.", values={"most": MAX_DAYS})

    @property
    def are_one(self) -> bool:
        """Whether it is a single day."""
        return self.first == self.last


@dataclass(frozen=True, slots=True)
class CategoryShare:
    """One category's share of the days' requests, in percent."""

    category: Category
    count: int
    percentage: float
    avg_confidence: float


@dataclass(frozen=True, slots=True)
class PhotoShare:
    """The share of the days' new photos, in percent, that have one model, format or band of confidence."""

    value: str
    count: int
    percentage: float


async def read_category_shares(read: Reader, days: Days, zone: ZoneInfo) -> list[CategoryShare]:
    """Return the shares of the categories in the requests of `days`, the largest first.

    Raises:
        DatabaseUnavailable, ServerBusy: as every reader.
    """
    requests, confidence = Counter[str](), Counter[str]()
    for start, end in _spans(days, zone):
        query = (
            select(
                PeriodTotals.category,
                func.sum(PeriodTotals.requests).label("requests"),
                func.sum(PeriodTotals.confidence_sum).label("confidence"),
            )
            .where(PeriodTotals.period_start >= start, PeriodTotals.period_start < end)
            .group_by(PeriodTotals.category)
        )

        async def find(connection: AsyncConnection, query: Select[str, int, int] = query) -> list[tuple[str, int, int]]:
            rows = await connection.execute(query)
            return [(row.category, int(row.requests), int(row.confidence)) for row in rows]

        for category, number, sum_of_confidence in await read(find):
            requests[category] += number
            confidence[category] += sum_of_confidence
    return [
        CategoryShare(
            category=Category(category),
            count=count,
            percentage=percent(count, requests.total()),
            avg_confidence=ratio(Decimal(confidence[category]) / 10_000, count, digits=4),
        )
        for category, count in sorted(requests.items(), key=lambda item: (-item[1], item[0]))
    ]


async def read_photo_shares(read: Reader, kind: PhotoKind, days: Days, zone: ZoneInfo) -> list[PhotoShare]:
    """Return the shares in the photos that became known in `days`.

    The largest is first, but bands of confidence are all there, in their order, if there are photos at all.

    Raises:
        DatabaseUnavailable, ServerBusy: as every reader.
    """
    photos = Counter[str]()
    for start, end in _spans(days, zone):
        query = (
            select(NewPhotoPeriod.value, func.sum(NewPhotoPeriod.photos).label("photos"))
            .where(
                NewPhotoPeriod.period_start >= start,
                NewPhotoPeriod.period_start < end,
                NewPhotoPeriod.kind == kind.value,
            )
            .group_by(NewPhotoPeriod.value)
        )

        async def find(connection: AsyncConnection, query: Select[str, int] = query) -> dict[str, int]:
            return {row.value: int(row.photos) for row in await connection.execute(query)}

        photos.update(await read(find))
    values = sorted(photos, key=lambda value: (-photos[value], value))
    if photos and kind is PhotoKind.CONFIDENCE:
        values = list(CONFIDENCE_BANDS)
    return [PhotoShare(value, photos[value], percent(photos[value], photos.total())) for value in values]


def _spans(days: Days, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """The days in pieces that are read at once: where each begins and ends, in UTC."""
    first = days.first
    while first <= days.last:
        last = min(first + timedelta(days=_DAYS_AT_A_TIME - 1), days.last)
        yield day_in_utc(first, zone)[0], day_in_utc(last, zone)[1]
        first = last + timedelta(days=1)
