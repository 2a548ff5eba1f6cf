"""A log to count."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.database.tables.classification import CachedImage
from app.database.tables.statistics import CacheTotals
from tests.support.statistics import log_and_sum, log_row


@pytest.fixture
async def filled(engine: AsyncEngine) -> AsyncEngine:
    """Both tables, filled with the same pseudo-random rows everywhere, and the rollups."""
    dice = random.Random(7)
    categories = [category.value for category in Category]
    users = [None, *(f"user-{i:02}" for i in range(25) for _ in range(i))]
    start = datetime(2025, 10, 8, tzinfo=UTC)
    log = [
        log_row(
            number,
            # Distinct numbers of requests, so that the order by count has no ties.
            user_id=dice.choice(users),
            ip_address=dice.choice([None, "10.0.0.1", "10.0.0.2", "::1"]),
            category=dice.choices(categories, weights=[1, 3, 5, 9, 14, 20, 27, 35])[0],
            confidence=Decimal(dice.randrange(10_001)) / 10_000,
            from_cache=int(dice.random() < 0.37),
            processing_time_ms=dice.randrange(3000),
            created_at=start + timedelta(seconds=dice.randrange(4 * 86400)),
        )
        for number in range(3000)
    ]
    cache = [
        {
            "image_hash": f"{number:064x}",
            "category": dice.choice(categories),
            "confidence": Decimal(dice.randrange(10_001)) / 10_000,
            "description": None,
            "model_used": "test",
            "hit_count": number * 3 + 1,
            "created_at": (created := start + timedelta(seconds=dice.randrange(86400))),
            "last_hit_at": created + timedelta(seconds=dice.randrange(9 * 86400)),
        }
        for number in range(40)
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(CachedImage), cache)
        await connection.execute(
            insert(CacheTotals),
            {
                "shard": 0,
                "images": len(cache),
                "hits": sum(number * 3 + 1 for number in range(40)),
                "saved_micros": sum(number * 3 * 10_000 for number in range(40)),
            },
        )
    await log_and_sum(engine, log)
    return engine
