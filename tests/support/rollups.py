"""Sums of the log, computed from its rows."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.config.settings import StatisticsSettings
from app.services.request_log.record import RequestRecord
from app.services.statistics.service import StatsService
from app.services.statistics.shares import Days
from tests.support.records import record

SHANGHAI = ZoneInfo("Asia/Shanghai")
# Two or four decimals; the rest is for what binary fractions are off.
ROUNDED_2, ROUNDED_4 = 0.005 + 1e-9, 0.00005 + 1e-9
DAYS = [date(2025, 10, 9), date(2025, 10, 10), date(2025, 10, 11)]


def stats_on(engine: AsyncEngine, zone: ZoneInfo = SHANGHAI) -> StatsService:
    return StatsService(engine, StatisticsSettings.model_validate({"timezone": zone.key}), currency="CNY")


async def figures(engine: AsyncEngine, days: Sequence[date] = DAYS, zone: ZoneInfo = SHANGHAI) -> dict[str, Any]:
    """Every figure of the statistics but those of the images."""
    stats = stats_on(engine, zone)
    return {
        "days": {day: asdict(await stats.day(day)) for day in days},
        "categories": {
            day: [asdict(share) for share in await stats.category_distribution(Days(day, day))] for day in days
        },
        "users": [asdict(user) for user in await stats.top_users(1000)],
    }


def computed(
    records: Sequence[RequestRecord],
    days: Sequence[date] = DAYS,
    zone: ZoneInfo = SHANGHAI,
) -> dict[str, Any]:
    """The same, computed here from the requests themselves."""
    users = defaultdict[str, list[RequestRecord]](list)
    for each in records:
        if each.user_id is not None:
            users[each.user_id].append(each)
    on = {day: [each for each in records if each.created_at.astimezone(zone).date() == day] for day in days}
    return {
        "days": {day: _computed_day(rows) for day, rows in on.items()},
        "categories": {day: _computed_shares(rows) for day, rows in on.items()},
        "users": [
            {
                "user_id": user,
                "request_count": len(rows),
                "cache_hits": sum(row.from_cache for row in rows),
                "cache_hit_rate": pytest.approx(100 * sum(row.from_cache for row in rows) / len(rows), abs=ROUNDED_2),
                "first_request": min(row.created_at for row in rows),
                "last_request": max(row.created_at for row in rows),
            }
            for user, rows in sorted(users.items(), key=lambda item: (len(item[1]), item[0]), reverse=True)
        ],
    }


def _computed_day(rows: Sequence[RequestRecord]) -> dict[str, Any]:
    hits = sum(row.from_cache for row in rows)
    whole = len(rows) or 1
    return {
        "total_requests": len(rows),
        "cache_hits": hits,
        "cache_misses": len(rows) - hits,
        "cache_hit_rate": pytest.approx(100 * hits / whole, abs=ROUNDED_2),
        "unique_users": len({row.user_id for row in rows if row.user_id is not None}),
        "unique_ips": len({row.ip_address for row in rows if row.ip_address is not None}),
        "avg_processing_time_ms": pytest.approx(sum(row.processing_time_ms for row in rows) / whole, abs=ROUNDED_2),
        # Of the ledger, which has no rows here.
        "estimated_cost": 0.0,
        "cost_saved": sum(row.saved_micros for row in rows) / 1_000_000,
        "similar_hits": 0,
        "saved_by_similar": 0.0,
        "currency": "CNY",
    }


def _computed_shares(rows: Sequence[RequestRecord]) -> list[dict[str, Any]]:
    groups = defaultdict[str, list[float]](list)
    for row in rows:
        groups[row.category].append(row.confidence)
    return [
        {
            "category": category,
            "count": len(values),
            "percentage": pytest.approx(100 * len(values) / len(rows), abs=ROUNDED_2),
            "avg_confidence": pytest.approx(sum(values) / len(values), abs=ROUNDED_4),
        }
        for category, values in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def random_records(count: int, seed: int = 1) -> list[RequestRecord]:
    """Requests of three days of Shanghai, many of them close to a midnight; some without user or address."""
    dice = random.Random(seed)
    midnights = [datetime(2025, 10, 9, 16, tzinfo=UTC), datetime(2025, 10, 10, 16, tzinfo=UTC)]
    records = []
    for number in range(count):
        from_cache = dice.random() < 0.6
        records.append(
            record(
                number,
                user_id=dice.choice([None, *(f"user-{i}" for i in range(20))]),
                ip_address=dice.choice([None, *(f"10.0.0.{i}" for i in range(9))]),
                image_hash=f"{dice.randrange(30):064x}",
                category=dice.choice(list(Category)).value,
                confidence=dice.randrange(10_001) / 10_000,
                from_cache=from_cache,
                processing_time_ms=dice.randrange(3000),
                created_at=dice.choice(midnights) + timedelta(seconds=int(dice.gauss(0, 3600))),
                saved_micros=dice.randrange(20_000) if from_cache else 0,
            )
        )
    return records
