"""Shares over a range of days, and those of new photos."""

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.database.pipeline import run
from app.errors import InvalidRequest
from app.services.request_log.rollups import CONFIDENCE_BANDS, PhotoKind
from app.services.statistics.shares import MAX_DAYS, Days, PhotoShare
from tests.support.databases import rollups_for
from tests.support.statistics import log_and_sum, log_row, stats_service

DAY = date(2025, 10, 10)


async def test_a_range_is_the_sum_of_its_days(engine: AsyncEngine) -> None:
    start = datetime(2025, 1, 31, 12, tzinfo=UTC)
    rows = [
        log_row(number, category="pets" if number % 5 == 0 else "foods", created_at=start + timedelta(days=number))
        for number in range(100)
    ]
    await log_and_sum(engine, rows)
    stats = stats_service(engine)
    for length in (1, 2, 31, 32, 62, 63, 100):
        days = Days(start.date(), start.date() + timedelta(days=length - 1))
        shares = {share.category.value: share for share in await stats.category_distribution(days)}
        assert sum(share.count for share in shares.values()) == length
        assert shares["pets"].count == (length + 4) // 5
        assert {share.avg_confidence for share in shares.values()} == {0.5}
        assert sum(share.percentage for share in shares.values()) == pytest.approx(100, abs=0.02)
    assert await stats.category_distribution(Days(date(2024, 1, 1), date(2024, 12, 31))) == []


async def test_a_range_begins_and_ends_at_midnights_of_the_zone(engine: AsyncEngine) -> None:
    moments = [datetime(2025, 10, 9, 15, 59, 59, tzinfo=UTC), datetime(2025, 10, 9, 16, tzinfo=UTC)]
    moments += [datetime(2025, 10, 11, 15, 59, 59, tzinfo=UTC), datetime(2025, 10, 11, 16, tzinfo=UTC)]
    await log_and_sum(engine, [log_row(number, created_at=moment) for number, moment in enumerate(moments)])
    [share] = await stats_service(engine, "Asia/Shanghai").category_distribution(Days(DAY, DAY + timedelta(days=1)))
    assert share.count == 2


def test_days_are_bounded() -> None:
    Days(DAY, DAY + timedelta(days=MAX_DAYS - 1))
    with pytest.raises(InvalidRequest):
        Days(DAY, DAY + timedelta(days=MAX_DAYS))
    with pytest.raises(InvalidRequest):
        Days(DAY, DAY - timedelta(days=1))


async def test_new_photos_are_counted_by_model_format_and_confidence(engine: AsyncEngine) -> None:
    photos = [
        ("gpt", "jpg", 0.95),
        ("gpt", "heic", 1.0),
        ("GPT", "jpg", 0.9),
        ("gpt", "jpg", 0.0),
        ("gpt", "jpg", 0.8999),
    ]
    for process in (rollups_for(engine), rollups_for(engine)):
        for model, photo_format, confidence in photos:
            added = process.photo_added(
                model=model, photo_format=photo_format, confidence=confidence, answered_at=utc_now()
            )
            await run(engine, [added], writes=True)
    stats = stats_service(engine)
    today = Days(stats.today(), stats.today() + timedelta(days=1))
    # Names that differ in case are two models, on MySQL as well.
    assert await stats.new_photos(PhotoKind.MODEL, today) == [PhotoShare("gpt", 8, 80.0), PhotoShare("GPT", 2, 20.0)]
    assert await stats.new_photos(PhotoKind.FORMAT, today) == [PhotoShare("jpg", 8, 80.0), PhotoShare("heic", 2, 20.0)]
    bands = await stats.new_photos(PhotoKind.CONFIDENCE, today)
    assert [share.value for share in bands] == list(CONFIDENCE_BANDS)
    assert [share.count for share in bands] == [2, *[0] * 7, 2, 6]
    long_ago = Days(DAY, DAY)
    assert [await stats.new_photos(kind, long_ago) for kind in PhotoKind] == [[], [], []]
