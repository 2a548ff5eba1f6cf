"""Statistics for ops people: figures of a day, of the cache, of categories, users and images."""

import re
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BeforeValidator

from app.api.dependencies import StatsDep
from app.api.errors import describe_errors
from app.errors import DatabaseUnavailable, ServerBusy
from app.schemas.stats import (
    CacheEfficiencyResponse,
    CategoryDistributionResponse,
    DayStatsResponse,
    TopImagesResponse,
    TopUsersResponse,
)

MAX_LIMIT = 1000


def _only_iso(value: Any) -> Any:
    # pydantic would also take unix seconds and times of day.
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("a day is written YYYY-MM-DD")
    return value


# The bounds keep a day's midnights within what the databases' DATETIME can hold.
Day = Annotated[
    date | None,
    BeforeValidator(_only_iso),
    Query(
        alias="date",
        description="Day in STATS_TIMEZONE, YYYY-MM-DD; today if left out.",
        ge=date(1970, 1, 1),
        le=date(2999, 12, 31),
        examples=["2025-10-10"],
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many at the most.")]

router = APIRouter(prefix="/stats", tags=["statistics"], responses=describe_errors(DatabaseUnavailable, ServerBusy))


@router.get("/today")
async def today(stats: StatsDep, day: Day = None) -> DayStatsResponse:
    """Requests, hit rate, users and money of today, or of another day."""
    return DayStatsResponse(data=await stats.day(day or stats.today()))


@router.get("/cache-efficiency")
async def cache_efficiency(stats: StatsDep) -> CacheEfficiencyResponse:
    """What the cache has saved since it exists."""
    return CacheEfficiencyResponse(data=await stats.cache_efficiency())


@router.get("/category-distribution")
async def category_distribution(stats: StatsDep, day: Day = None) -> CategoryDistributionResponse:
    """How a day's requests spread over the categories, the largest first."""
    return CategoryDistributionResponse(data=await stats.category_distribution(day or stats.today()))


@router.get("/users/top")
async def top_users(stats: StatsDep, limit: Limit = 20) -> TopUsersResponse:
    """The users with the most requests since the first."""
    return TopUsersResponse(data=await stats.top_users(limit))


@router.get("/top-images")
async def top_images(stats: StatsDep, limit: Limit = 10) -> TopImagesResponse:
    """The images with the most hits."""
    return TopImagesResponse(data=await stats.top_images(limit))
