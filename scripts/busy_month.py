"""A made-up month of a service that people like, for pictures of its dashboard."""

import hashlib
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import insert

from app.clients.metering import CallOutcome
from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.migrate import migrate
from app.database.pipeline import run
from app.database.tables.classification import CachedImage
from app.database.tables.statistics import CacheTotals, ErrorPeriod
from app.services.request_log.record import RequestRecord
from app.services.request_log.recorder import RequestRecorder
from app.services.request_log.rollups import Rollups, period_start
from app.services.spending.ledger import Ledger, LedgerRow
from app.services.spool.service import Spool

ZONE = ZoneInfo("Asia/Shanghai")
DAYS = 30
REQUESTS_PER_DAY = 2400
IMAGES = 6000
# SQLite takes at most 32 766 values in a statement.
RECORDS_AT_ONCE = 3000
CALLS_AT_ONCE = 2000
MODEL = "gpt-6-luna"
# Of a photo of 1024 pixels: in tokens, and in millionths of CURRENCY.
INPUT_TOKENS, OUTPUT_TOKENS, COST_MICROS = 1290, 46, 9_900
CATEGORIES = {
    "travel_scenery": 26,
    "foods": 21,
    "single_person": 17,
    "pets": 12,
    "screenshot": 10,
    "social_activities": 7,
    "other": 5,
    "idcard": 2,
}
NAMES = ("aurora", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "juniper")


def log_of_a_month(now: datetime, dice: random.Random) -> list[RequestRecord]:
    """The requests up to `now`: more by day than at night, and more hits the longer the cache exists."""
    records: list[RequestRecord] = []
    start = now - timedelta(days=DAYS)
    people = [f"{name}-{dice.randrange(16**6):06x}" for name in NAMES for _ in range(400)]
    dice.shuffle(people)
    steps = DAYS * 24 * 12
    for step in range(steps):
        moment = start + timedelta(minutes=5 * step)
        local = moment.astimezone(ZONE)
        hour = local.hour + local.minute / 60
        # Two humps: around noon and in the evening.
        daily = 0.15 + math.exp(-((hour - 12.5) ** 2) / 9) + 1.3 * math.exp(-((hour - 20) ** 2) / 7)
        weekend = 1.35 if local.weekday() >= 5 else 1.0
        growth = 0.7 + 0.6 * step / steps
        expected = REQUESTS_PER_DAY / 288 * daily * weekend * growth / 0.5
        for _ in range(max(0, round(dice.gauss(expected, expected**0.5)))):
            is_hit = dice.random() < 0.24 + 0.42 * step / steps + dice.gauss(0, 0.02)
            milliseconds = dice.lognormvariate(1.4, 0.4) if is_hit else dice.lognormvariate(7.0, 0.35)
            records.append(
                RequestRecord(
                    request_id=f"req_{int(moment.timestamp())}_{len(records):012x}",
                    user_id=people[int(len(people) * dice.random() ** 1.7)] if dice.random() < 0.94 else None,
                    ip_address=f"10.{dice.randrange(4)}.{dice.randrange(12)}.{dice.randrange(1, 9)}",
                    image_hash=_hash(int(IMAGES * dice.random() ** 2.5)),
                    image_size=None if is_hit else dice.randrange(120_000, 420_000),
                    category=dice.choices(list(CATEGORIES), list(CATEGORIES.values()))[0],
                    confidence=dice.randrange(7600, 9950) / 10_000,
                    from_cache=is_hit,
                    processing_time_ms=max(1, round(milliseconds)),
                    created_at=moment + timedelta(seconds=dice.randrange(300)),
                    model="gpt-6-luna",
                    # The rows of the cache have their hits already.
                    of_shared_cache=False,
                    saved_micros=COST_MICROS if is_hit else 0,
                )
            )
    return [record for record in records if record.created_at <= now]


def calls_of_a_month(records: Sequence[RequestRecord]) -> list[LedgerRow]:
    """The model calls of the requests that were no hits."""
    return [
        LedgerRow(
            request_id=record.request_id,
            number=0,
            called_at=record.created_at,
            provider="openai",
            model=MODEL,
            input_tokens=INPUT_TOKENS,
            cached_input_tokens=0,
            output_tokens=OUTPUT_TOKENS,
            cost_micros=COST_MICROS,
            outcome=CallOutcome.ANSWERED,
            api_key_id=None,
            account_id=None,
            user_id=record.user_id,
        )
        for record in records
        if not record.from_cache
    ]


def cache_of_a_month(now: datetime, dice: random.Random) -> list[dict[str, Any]]:
    """The rows of the cache: a few photos of many users, and many photos of few."""
    return [
        {
            "image_hash": _hash(number),
            "category": dice.choices(list(CATEGORIES), list(CATEGORIES.values()))[0],
            "confidence": Decimal(dice.randrange(7600, 9950)) / 10_000,
            "model_used": MODEL,
            "cost_micros": COST_MICROS,
            "hit_count": 1 + int(640 / (number + 1) ** 0.55),
            "created_at": now - timedelta(days=DAYS * dice.random()),
            "last_hit_at": now - timedelta(minutes=dice.randrange(600)),
        }
        for number in range(IMAGES)
    ]


def errors_of_a_month(now: datetime, dice: random.Random) -> list[dict[str, Any]]:
    """The rows of `stats_error`: some model calls fail, more of them when the provider has a bad hour."""
    periods = [period_start(now) - timedelta(minutes=15 * number) for number in range(DAYS * 96)]
    counts = {period: dice.choices([0, 1, 2, 9], [88, 9, 2.7, 0.3])[0] for period in periods}
    return [
        {
            "period_start": period,
            "code": dice.choice(["model_timeout", "model_unreachable"]),
            "shard": 0,
            "errors": count,
        }
        for period, count in counts.items()
        if count
    ]


async def fill(folder: Path) -> Settings:
    """Make a SQLite database with such a month in `folder`, and return the settings of a service on it."""
    url = f"sqlite:///{folder}/busy-month.db"
    settings = Settings(data_dir=folder, database=DatabaseSettings.model_validate({"url": url}))
    now, dice = datetime.now(UTC).replace(microsecond=0), random.Random(2)
    engine = create_engine(settings)
    try:
        await migrate(engine, settings)
        records, cached = log_of_a_month(now, dice), cache_of_a_month(now, dice)
        rollups = Rollups(engine.dialect.name, settings.statistics.timezone)
        spool = Spool(settings.data_dir / "spool", settings.spool_max_bytes)
        recorder = RequestRecorder(engine, rollups=rollups, spool=spool, currency=settings.spending.currency)
        for first in range(0, len(records), RECORDS_AT_ONCE):
            await recorder.record(records[first : first + RECORDS_AT_ONCE])
        await recorder.close()
        calls, ledger = calls_of_a_month(records), Ledger(engine.dialect.name)
        for first in range(0, len(calls), CALLS_AT_ONCE):
            await run(engine, ledger.statements(calls[first : first + CALLS_AT_ONCE]), writes=True)
        saved = sum(record.saved_micros for record in records)
        hits = sum(row["hit_count"] for row in cached)
        totals = {"shard": 0, "images": len(cached), "hits": hits, "saved_micros": saved}
        async with engine.begin() as connection:
            await connection.execute(insert(CachedImage), cached)
            await connection.execute(insert(CacheTotals), totals)
            await connection.execute(insert(ErrorPeriod), errors_of_a_month(now, dice))
    finally:
        await engine.dispose()
    return settings


def _hash(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()
