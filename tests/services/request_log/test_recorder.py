"""Exactly one row per request and one more per hit: under company, under failure, and after a caller has left."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import LogDurability, Settings
from app.database.batch_writer import BatchWriter, create_batch_writer
from app.database.statements import Statement
from app.database.tables.classification import CachedImage
from app.database.tables.request_log import RequestLog
from app.errors import DatabaseUnavailable, ServerBusy
from app.observability.logging import configure_logging
from app.services.idempotency.key import KeptAnswer
from app.services.request_log import recorder as recorder_module
from app.services.request_log.recorder import RequestRecorder
from tests.support.databases import recorder_on
from tests.support.records import IMAGE, record


class WriterSpy:
    """What the recorders hand to their real writers; `before` runs first and may fail."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Statement]] = []
        self.before: Callable[[], None] = lambda: None


class SpiedWriter:
    def __init__(self, engine: AsyncEngine, spy: WriterSpy) -> None:
        self._real: BatchWriter = create_batch_writer(engine)
        self._spy = spy

    async def write(self, statements: Sequence[Statement]) -> None:
        self._spy.before()
        self._spy.batches.append(statements)
        await self._real.write(statements)

    async def close(self) -> None:
        await self._real.close()


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> WriterSpy:
    spy = WriterSpy()
    monkeypatch.setattr(recorder_module, "create_batch_writer", lambda engine: SpiedWriter(engine, spy))
    return spy


@pytest.fixture
async def recorder(engine: AsyncEngine, writer: WriterSpy) -> RequestRecorder:
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


async def test_many_requests_share_few_transactions(
    recorder: RequestRecorder, engine: AsyncEngine, writer: WriterSpy
) -> None:
    await asyncio.gather(*(recorder.record([record(number)]) for number in range(300)))
    assert await counts(engine) == (300, 301)
    assert len(writer.batches) < 10


async def test_without_a_kept_answer_nothing_more_is_written(
    recorder: RequestRecorder, engine: AsyncEngine, writer: WriterSpy
) -> None:
    # Of the first one the user and the address are written, too.
    await recorder.record([record(0)])
    await recorder.record([record(1)])
    await recorder.record([record(2)], kept=KeptAnswer("k" * 64, "f" * 64, "req_2", "user", None, "{}"))
    plain, kept = ([statement.text for statement in batch] for batch in writer.batches[1:])
    assert [text for text in kept if "idempotent_answer" not in text] == plain
    assert len(kept) == len(plain) + 1


async def test_larger_batches_than_one_transaction_takes(recorder: RequestRecorder, engine: AsyncEngine) -> None:
    size = recorder_module.MAX_ROWS_PER_TRANSACTION
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
    recorder: RequestRecorder, engine: AsyncEngine, writer: WriterSpy
) -> None:
    """The connection is lost after COMMIT and before its answer: the retry must find out and change nothing."""
    await recorder.record([record(1), record(2)])
    await recorder.record([record(1), record(2)])
    assert len(writer.batches) == 2
    assert await counts(engine) == (2, 3)


async def test_async_rows_are_written_after_the_answer(engine: AsyncEngine, writer: WriterSpy) -> None:
    recorder = recorder_on(engine, durability=LogDurability.ASYNC)
    for number in range(50):
        await recorder.record([record(number, from_cache=False)])
    assert writer.batches == []
    await recorder.close()
    assert (await counts(engine))[0] == 50


async def test_async_rows_wait_for_a_database_that_is_away(
    engine: AsyncEngine, writer: WriterSpy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(recorder_module, "MAX_PENDING_ROWS", 5)
    away = True

    def fail() -> None:
        if away:
            raise DatabaseUnavailable

    writer.before = fail
    recorder = recorder_on(engine, durability=LogDurability.ASYNC)
    for number in range(5):
        await recorder.record([record(number, from_cache=False)])
    await asyncio.sleep(0.05)
    with pytest.raises(ServerBusy):
        await recorder.record([record(6)])
    away = False
    await recorder.close()
    assert (await counts(engine))[0] == 5


async def test_async_rows_of_a_database_that_stays_away_are_given_up_aloud(
    engine: AsyncEngine, writer: WriterSpy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recorder_module, "CLOSE_TIMEOUT_SECONDS", 0.1)

    def fail() -> None:
        raise DatabaseUnavailable

    writer.before = fail
    configure_logging(Settings())
    recorder = recorder_on(engine, durability=LogDurability.ASYNC)
    await recorder.record([record(1), record(2)])
    await recorder.close()
    assert "2 log rows are lost" in capsys.readouterr().err


async def test_a_full_queue_is_said_at_once(
    recorder: RequestRecorder, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MAX_PENDING_ROWS", 5)
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
