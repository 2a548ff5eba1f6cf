"""Bodies of the statistics: the services' figures in the `data` envelope, with examples."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidRequest
from app.schemas.common import EXAMPLE_HASH, EXAMPLE_MODEL, DataResponse
from app.services.feedback.accuracy import Accuracy
from app.services.statistics.cascade import CascadeFigures
from app.services.statistics.rankings import HotImage, UserStats
from app.services.statistics.service import CacheEfficiency, DayStats
from app.services.statistics.shares import CategoryShare, PhotoShare
from app.services.statistics.spending import SpendingShare
from app.services.statistics.timeseries import Bucket, BucketFigures


class Metric(StrEnum):
    """Figures that exist over time: the fields of `BucketFigures`."""

    REQUESTS = "requests"
    HITS = "hits"
    MISSES = "misses"
    HIT_RATE = "hit_rate"
    USERS = "users"
    MONEY_SPENT = "money_spent"
    MONEY_SAVED = "money_saved"
    LATENCY = "latency"
    ERRORS = "errors"


class Point(BaseModel):
    """One bucket."""

    start: Annotated[datetime, Field(description="When the bucket begins; UTC.")]
    value: Annotated[float, Field(description="A number; hit_rate in percent, latency in ms, money in CURRENCY.")]


class TimeSeries(BaseModel):
    """One metric's points, the oldest first, without gaps."""

    metric: Metric
    bucket: Bucket
    points: list[Point]
    currency: Annotated[str | None, Field(description="Of money; null for other metrics.")] = None

    @classmethod
    def of(cls, metric: Metric, bucket: Bucket, figures: Sequence[BucketFigures], currency: str) -> Self:
        """Pick one metric; money is in `currency`.

        Raises:
            InvalidRequest: it does not exist for buckets of this length.
        """
        values = [getattr(each, metric) for each in figures]
        if None in values:
            raise InvalidRequest(
                "Users are counted by the day (bucket=day), and users, errors and money_spent not by category."
            )
        points = [Point(start=each.start, value=value) for each, value in zip(figures, values, strict=True)]
        is_money = metric in {Metric.MONEY_SPENT, Metric.MONEY_SAVED}
        return cls(metric=metric, bucket=bucket, points=points, currency=currency if is_money else None)


def _example(data: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [{"success": True, "data": data}]})


class DayStatsResponse(DataResponse[DayStats]):
    model_config = _example(
        {
            "total_requests": 1523,
            "cache_hits": 456,
            "cache_misses": 1067,
            "cache_hit_rate": 29.94,
            "unique_users": 89,
            "unique_ips": 76,
            "avg_processing_time_ms": 1245.0,
            "estimated_cost": 10.67,
            "cost_saved": 4.56,
            "similar_hits": 31,
            "saved_by_similar": 0.31,
            "currency": "CNY",
        }
    )


class TimeSeriesResponse(DataResponse[TimeSeries]):
    model_config = _example(
        {
            "metric": "hit_rate",
            "bucket": "hour",
            "points": [
                {"start": "2025-10-10T08:00:00Z", "value": 28.4},
                {"start": "2025-10-10T09:00:00Z", "value": 31.25},
            ],
        }
    )


class CacheEfficiencyResponse(DataResponse[CacheEfficiency]):
    model_config = _example(
        {
            "total_cached_images": 3542,
            "total_hits": 8923,
            "times_saved": 5381,
            "cost_saved": 53.81,
            "avg_hit_per_image": 2.52,
            "max_hits": 156,
            "similar_hits": 412,
            "saved_by_similar": 4.12,
            "currency": "CNY",
        }
    )


class Spending(BaseModel):
    """What calls have cost, group by group, the dearest first."""

    currency: str
    groups: list[SpendingShare]


class SpendingResponse(DataResponse[Spending]):
    model_config = _example(
        {
            "currency": "CNY",
            "groups": [
                {
                    "name": "gpt-6-luna",
                    "key_name": None,
                    "calls": 1067,
                    "input_tokens": 1280400,
                    "cached_input_tokens": 0,
                    "output_tokens": 85360,
                    "cost": 10.67,
                }
            ],
        }
    )


class AccuracyResponse(DataResponse[list[Accuracy]]):
    """Each model, with `category` null, and after it each of its categories; shares are 0..1."""

    model_config = _example(
        [
            {
                "model": EXAMPLE_MODEL,
                "category": None,
                "photos": 120,
                "right": 87,
                "accuracy": 0.725,
                "low": 0.639,
                "high": 0.797,
            },
            {
                "model": EXAMPLE_MODEL,
                "category": "pets",
                "photos": 40,
                "right": 33,
                "accuracy": 0.825,
                "low": 0.6805,
                "high": 0.9125,
            },
        ]
    )


class CategoryDistributionResponse(DataResponse[list[CategoryShare]]):
    model_config = _example(
        [
            {"category": "travel_scenery", "count": 4523, "percentage": 29.7, "avg_confidence": 0.92},
            {"category": "single_person", "count": 3892, "percentage": 25.5, "avg_confidence": 0.89},
        ]
    )


class NewPhotosResponse(DataResponse[list[PhotoShare]]):
    model_config = _example(
        [
            {"value": "jpg", "count": 981, "percentage": 91.94},
            {"value": "heic", "count": 86, "percentage": 8.06},
        ]
    )


class TopUsersResponse(DataResponse[list[UserStats]]):
    model_config = _example(
        [
            {
                "user_id": "device_uuid_123",
                "request_count": 152,
                "cache_hits": 45,
                "cache_hit_rate": 29.6,
                "first_request": "2025-10-01T08:00:00Z",
                "last_request": "2025-10-10T12:00:00Z",
            }
        ]
    )


class TopImagesResponse(DataResponse[list[HotImage]]):
    model_config = _example(
        [
            {
                "image_hash": EXAMPLE_HASH,
                "category": "travel_scenery",
                "confidence": 0.9523,
                "hit_count": 23,
                "created_at": "2025-10-01T08:30:00Z",
                "last_hit_at": "2025-10-10T15:45:00Z",
                "lifetime_days": 9,
            }
        ]
    )


class CascadeResponse(DataResponse[CascadeFigures]):
    model_config = _example(
        {
            "sure": 781,
            "kept": 24,
            "sent": 262,
            "calls_saved": 805,
            "share_saved": 75.45,
            "estimated_saving": 8.05,
            "precision": {"value": 0.987, "low": 0.975, "high": 0.993},
            "expected_mistakes": 11.7,
            "currency": "CNY",
        }
    )
