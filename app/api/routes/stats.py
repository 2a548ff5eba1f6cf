"""Statistics for ops people: figures of a day and over time, of the cache, of categories, users and images."""

import re
from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BeforeValidator, Field

from app.api.dependencies import StatsDep
from app.api.errors import describe_errors
from app.categories import Category
from app.errors import DatabaseUnavailable, InvalidRequest, ServerBusy
from app.schemas.stats import (
    AccuracyResponse,
    CacheEfficiencyResponse,
    CascadeResponse,
    CategoryDistributionResponse,
    DayStatsResponse,
    Metric,
    NewPhotosResponse,
    Spending,
    SpendingResponse,
    TimeSeries,
    TimeSeriesResponse,
    TopImagesResponse,
    TopUsersResponse,
)
from app.services.request_log.rollups import PhotoKind
from app.services.statistics.service import StatsService
from app.services.statistics.shares import MAX_DAYS, Days
from app.services.statistics.spending import SpendingGroup
from app.services.statistics.timeseries import MAX_NUMBERS, Bucket

MAX_LIMIT = 1000


def _only_iso(value: Any) -> Any:
    # pydantic would also take unix seconds and times of day.
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("a day is written YYYY-MM-DD")
    return value


def _iso_moment(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+ -]\d{2}:\d{2})?)?", value):
        raise ValueError("a moment is written YYYY-MM-DD or YYYY-MM-DDThh:mm:ssZ (or +hh:mm for Z)")
    # A plus sign that was not quoted has become a space.
    moment = datetime.fromisoformat(value.replace(" ", "+"))
    if not 1970 <= moment.year < 3000:
        raise ValueError("years are 1970 to 2999")
    return moment


# The bounds keep a day's midnights within what the databases' DATETIME can hold.
_Day = Annotated[
    date,
    BeforeValidator(_only_iso),
    Field(ge=date(1970, 1, 1), le=date(2999, 12, 31)),
]
_DAY = "Day in STATS_TIMEZONE, YYYY-MM-DD;"
Day = Annotated[_Day | None, Query(alias="date", description=f"{_DAY} today if left out.")]
FirstDay = Annotated[
    _Day | None, Query(alias="from", description=f"{_DAY} the first of at most {MAX_DAYS}; `to` if left out.")
]
LastDay = Annotated[_Day | None, Query(alias="to", description=f"{_DAY} the last; today if left out.")]
_LENGTHS = f"How long one point is; at the most {', '.join(f'{n} of {b}' for b, n in MAX_NUMBERS.items())}."
_MOMENT = "YYYY-MM-DD or YYYY-MM-DDThh:mm:ss with Z or an offset; without one, a time of STATS_TIMEZONE."
From = Annotated[
    datetime | None,
    BeforeValidator(_iso_moment),
    Query(
        alias="from",
        description=f"In the first bucket. {_MOMENT} Left out: six hours, a day or thirty days before `to`.",
    ),
]
To = Annotated[
    datetime | None,
    BeforeValidator(_iso_moment),
    Query(alias="to", description=f"In the last bucket, or its end. {_MOMENT} Now if left out."),
]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many at the most.")]

router = APIRouter(prefix="/stats", tags=["statistics"], responses=describe_errors(DatabaseUnavailable, ServerBusy))


@router.get("/today")
async def today(stats: StatsDep, day: Day = None) -> DayStatsResponse:
    """Requests, hit rate, users and money of today, or of another day."""
    return DayStatsResponse(data=await stats.day(day or stats.today()))


@router.get("/timeseries")
async def timeseries(
    stats: StatsDep,
    metric: Annotated[Metric, Query(description="What is counted.")],
    bucket: Annotated[Bucket, Query(description=_LENGTHS)] = Bucket.HOUR,
    start: From = None,
    end: To = None,
    category: Annotated[Category | None, Query(description="Requests of this one only.")] = None,
) -> TimeSeriesResponse:
    """One figure over time, a point for each quarter of an hour, hour or day; empty ones are 0."""
    figures = await stats.timeseries(bucket, start, end, category)
    return TimeSeriesResponse(data=TimeSeries.of(metric, bucket, figures, stats.currency))


@router.get("/spending")
async def spending(
    stats: StatsDep,
    by: Annotated[SpendingGroup, Query(description="What calls are put together by.")] = SpendingGroup.MODEL,
    first: FirstDay = None,
    last: LastDay = None,
) -> SpendingResponse:
    """What calls of models have cost, also those without a valid answer; by model, provider or API key.

    The `name` of a key is its id, and `key_name` what people call it, also where it was revoked.
    """
    groups = await stats.spending(by, _days(stats, first, last))
    return SpendingResponse(data=Spending(currency=stats.currency, groups=groups))


@router.get("/accuracy")
async def accuracy(stats: StatsDep, first: FirstDay = None, last: LastDay = None) -> AccuracyResponse:
    """How often models were right, by model and category, as far as users have said so; the last 30 days if left out.

    The 95 % interval is that of a random sample, which users who send feedback are not: who finds an answer wrong is
    likelier to say so.
    """
    return AccuracyResponse(data=await stats.accuracy(_days(stats, first, last) if first or last else None))


@router.get("/cache-efficiency")
async def cache_efficiency(stats: StatsDep) -> CacheEfficiencyResponse:
    """What the cache has saved since it exists."""
    return CacheEfficiencyResponse(data=await stats.cache_efficiency())


@router.get("/category-distribution")
async def category_distribution(
    stats: StatsDep, day: Day = None, first: FirstDay = None, last: LastDay = None
) -> CategoryDistributionResponse:
    """How the requests of a day, or of a range of days, spread over the categories, the largest first."""
    if day is not None and (first or last):
        raise InvalidRequest("Ask for 'date', or for 'from' and 'to'.")
    days = _days(stats, first or day, last or day)
    return CategoryDistributionResponse(data=await stats.category_distribution(days))


@router.get("/new-photos")
async def new_photos(
    stats: StatsDep,
    kind: Annotated[PhotoKind, Query(alias="by", description="By what they are counted.")],
    first: FirstDay = None,
    last: LastDay = None,
) -> NewPhotosResponse:
    """How the photos that became known spread over models, formats, or tenths of confidence."""
    return NewPhotosResponse(data=await stats.new_photos(kind, _days(stats, first, last)))


@router.get("/cascade")
async def cascade(stats: StatsDep, first: FirstDay = None, last: LastDay = None) -> CascadeResponse:
    """What the local model has answered in the place of the one that is paid: calls saved, price in accuracy."""
    return CascadeResponse(data=await stats.cascade(_days(stats, first, last)))


@router.get("/users/top")
async def top_users(stats: StatsDep, limit: Limit = 20) -> TopUsersResponse:
    """The users with the most requests since the first."""
    return TopUsersResponse(data=await stats.top_users(limit))


@router.get("/top-images")
async def top_images(stats: StatsDep, limit: Limit = 10) -> TopImagesResponse:
    """The images with the most hits."""
    return TopImagesResponse(data=await stats.top_images(limit))


def _days(stats: StatsService, first: date | None, last: date | None) -> Days:
    last = last or stats.today()
    return Days(first or last, last)
