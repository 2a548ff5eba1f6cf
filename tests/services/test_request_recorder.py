"""Exactly one row per request and one more per hit: under company, under failure, and after a caller has left."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, func, insert, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import transactions
from app.database.tables import CachedImage, RequestLog
from app.errors import ServerBusy
from app.services import request_recorder
from app.services.request_record import RequestRecord
from app.services.request_recorder import RequestRecorder
from app.services.rollups import Rollups

IMAGE = "a" * 64


def record(number: int, **values: Any) -> RequestRecord:
    fields: dict[str, Any] = {
        "request_id": f"req_{number}",
        "user_id": "user",
        "ip_address": "127.0.0.1",
        "image_hash": IMAGE,
        "image_size": None,
        "category": "foods",
        "confidence": 0.9,
        "from_cache": True,
        "processing_time_ms": 1,
        "created_at": datetime(2025, 10, 10, tzinfo=UTC),
    }
    return RequestRecord(**{**fields, **values})


def recorder_on(engine: AsyncEngine, *, log_enabled: bool = True, zone: str = "UTC") -> RequestRecorder:
    """A recorder as a process of its own would have it."""
    return RequestRecorder(engine, log_enabled=log_enabled, rollups=Rollups(engine.dialect.name, ZoneInfo(zone)))


@pytest.fixture
async def recorder(engine: AsyncEngine) -> RequestRecorder:
    async with engine.begin() as connection:
        await connection.execute(
            insert(CachedImage).values(
                image_hash=IMAGE, category="foods", confidence=0.9, model_used="test", hit_count=1
            )
        )
    return recorder_on(engine)


async def counts(engine: AsyncEngine) -> tuple[int, int]:
    async with engine.connect() as connection:
        rows = await connection.scalar(select(func.count()).select_from(RequestLog))
        hits = await connection.scalar(select(CachedImage.hit_count).where(CachedImage.image_hash == IMAGE))
        return rows or 0, hits or 0


async def test_many_requests_share_few_transactions(recorder: RequestRecorder, engine: AsyncEngine) -> None:
    commits = 0

    def count_commit(_: Any) -> None:
        nonlocal commits
        commits += 1

    event.listen(engine.sync_engine, "commit", count_commit)
    await asyncio.gather(*(recorder.record([record(number)]) for number in range(300)))
    assert await counts(engine) == (300, 301)
    assert commits < 10


async def test_larger_batches_than_one_transaction_takes(recorder: RequestRecorder, engine: AsyncEngine) -> None:
    size = request_recorder.MAX_ROWS_PER_TRANSACTION
    await asyncio.gather(
        recorder.record([record(number) for number in range(size + 1)]),
        *(recorder.record([record(size + 1 + number, from_cache=False)]) for number in range(size)),
    )
    assert await counts(engine) == (2 * size + 1, size + 2)


async def test_a_caller_that_leaves_does_not_take_its_row_along(recorder: RequestRecorder, engine: AsyncEngine) -> None:
    tasks = [asyncio.create_task(recorder.record([record(number)])) for number in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await recorder.close()
    assert await counts(engine) == (10, 11)


async def test_close_waits_for_what_is_handed_over(recorder: RequestRecorder, engine: AsyncEngine) -> None:
    tasks = [asyncio.create_task(recorder.record([record(number)])) for number in range(5)]
    await asyncio.sleep(0)
    await recorder.close()
    assert await counts(engine) == (5, 6)
    await asyncio.gather(*tasks)


async def test_a_bad_row_fails_its_own_request_only(recorder: RequestRecorder, engine: AsyncEngine) -> None:
    await recorder.record([record(0)])
    results = await asyncio.gather(
        *(recorder.record([record(number)]) for number in range(1, 5)),
        recorder.record([record(5), record(5, user_id="the same id again")]),
        return_exceptions=True,
    )
    assert results[:4] == [None] * 4
    assert isinstance(results[4], Exception)
    assert await counts(engine) == (5, 6)


async def test_a_transaction_that_was_committed_unheard_is_not_written_again(
    recorder: RequestRecorder, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost after COMMIT and before its answer: the retry must find out and change nothing."""
    real_write = transactions.write
    lost = False

    async def write_and_lose_the_answer(engine: AsyncEngine, work: Any) -> Any:
        nonlocal lost
        if not lost:
            lost = True
            await real_write(engine, work)
        return await real_write(engine, work)

    monkeypatch.setattr(request_recorder, "write", write_and_lose_the_answer)
    await recorder.record([record(1), record(2)])
    assert await counts(engine) == (2, 3)


async def test_a_deadlock_is_retried(recorder: RequestRecorder, engine: AsyncEngine) -> None:
    failures = 2

    def deadlock(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal failures
        if statement.startswith("INSERT INTO request_log") and failures:
            failures -= 1
            raise OperationalError(statement, None, Exception(1213, "Deadlock found"))

    event.listen(engine.sync_engine, "before_cursor_execute", deadlock)
    await recorder.record([record(1)])
    assert failures == 0
    assert await counts(engine) == (1, 2)


async def test_a_full_queue_is_said_at_once(
    recorder: RequestRecorder, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_recorder, "MAX_PENDING_ROWS", 5)
    results = await asyncio.gather(*(recorder.record([record(number)]) for number in range(8)), return_exceptions=True)
    busy = [result for result in results if isinstance(result, ServerBusy)]
    assert len(busy) == 3
    assert all(error.retry_after_seconds for error in busy)
    assert await counts(engine) == (5, 6)


async def test_without_a_log_only_hits_are_written(recorder: RequestRecorder, engine: AsyncEngine) -> None:
    quiet = recorder_on(engine, log_enabled=False)
    await asyncio.gather(*(quiet.record([record(number, from_cache=number % 2 == 0)]) for number in range(10)))
    assert await counts(engine) == (0, 6)


async def test_recorders_of_several_processes_count_the_same_images(
    engine: AsyncEngine, recorder: RequestRecorder
) -> None:
    hashes = [f"{number:064x}" for number in range(30)]
    async with engine.begin() as connection:
        await connection.execute(
            insert(CachedImage),
            [
                {"image_hash": h, "category": "foods", "confidence": 0.9, "model_used": "test", "hit_count": 1}
                for h in hashes
            ],
        )
    recorders = [recorder, recorder_on(engine), recorder_on(engine)]
    await asyncio.gather(
        *(
            recorders[i % 3].record([record(i * 1000 + j, image_hash=h) for j, h in enumerate(hashes[:: (-1) ** i])])
            for i in range(30)
        )
    )
    async with engine.connect() as connection:
        counted = await connection.scalars(select(CachedImage.hit_count).where(CachedImage.image_hash != IMAGE))
        assert set(counted) == {31}
