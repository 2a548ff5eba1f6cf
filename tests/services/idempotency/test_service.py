"""First answers: exactly one for each key, for 24 hours, in the transaction that makes them count."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.config.settings import LogDurability
from app.database.pipeline import DuplicateRowError
from app.database.tables.classification import CacheChange, CachedImage
from app.database.tables.idempotency import IdempotentAnswer
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.database.tables.request_log import RequestLog
from app.database.transactions import write
from app.errors import IdempotencyKeyInUse, IdempotencyKeyReused
from app.services.idempotency import service as service_module
from app.services.idempotency.key import IdempotencyKey, digest_of
from app.services.idempotency.rows import insert_answer
from app.services.idempotency.service import FirstAnswer, IdempotencyService
from app.services.request_log.recorder import RequestRecorder
from app.storage import LocalStorage
from tests.support.cache_processes import IMAGE, LOCAL, result, save, service
from tests.support.corrections import remove
from tests.support.databases import lost_answers, recorder_on
from tests.support.idempotency import age_answers, count_rows, kept_of
from tests.support.libraries import add_users, library_on, uploaded
from tests.support.records import record
from tests.support.tasks import make_image, tasks_on


def key_of(request: str = "req_1", *, key: str = "k", content: str = "c", images: Sequence[str] = ()) -> IdempotencyKey:
    return IdempotencyKey(digest_of(key), digest_of(content), request, "phone", images)


async def logged(recorder: RequestRecorder, key: IdempotencyKey) -> str:
    """Answer as a look-up does: with a log row, and a body of its own."""
    body = f'{{"request_id": "{key.request_id}"}}'
    await recorder.record([record(int(key.request_id.removeprefix("req_")))], kept=key.keep(body))
    return body


async def test_the_first_answer_is_given_again(engine: AsyncEngine) -> None:
    recorder, first, again = recorder_on(engine), key_of("req_1"), key_of("req_2")
    answers = [
        await IdempotencyService(engine).answer_once(each, partial(logged, recorder, each)) for each in (first, again)
    ]
    body = '{"request_id": "req_1"}'
    assert answers == [FirstAnswer(body, is_replay=False), FirstAnswer(body, is_replay=True)]
    assert await count_rows(engine, RequestLog) == 1
    other = key_of("req_3", content="other")
    with pytest.raises(IdempotencyKeyReused):
        await IdempotencyService(engine).answer_once(other, partial(logged, recorder, other))
    assert await count_rows(engine, RequestLog) == 1


@pytest.mark.parametrize("options", [{}, {"durability": LogDurability.ASYNC}, {"log_enabled": False}])
async def test_the_database_decides_between_processes(engine: AsyncEngine, options: dict[str, Any]) -> None:
    """All have seen that there is no answer yet before any of them commits."""
    async with engine.begin() as connection:
        await connection.execute(
            insert(CachedImage).values(image_hash=IMAGE, category="foods", confidence=1, model_used="m", hit_count=1)
        )
    keys = [key_of(f"req_{number}") for number in range(6)]
    waiting, all_there = 0, asyncio.Event()

    async def answer(key: IdempotencyKey) -> str:
        nonlocal waiting
        waiting += 1
        if waiting == len(keys):
            all_there.set()
        await all_there.wait()
        return await logged(recorder_on(engine, **options), key)

    bystander = recorder_on(engine, **options)
    others = asyncio.gather(*(bystander.record([record(100 + number)]) for number in range(20)))
    answers = await asyncio.gather(*(IdempotencyService(engine).answer_once(key, partial(answer, key)) for key in keys))
    await others
    await bystander.close()
    assert len({answer.body for answer in answers}) == 1
    assert sorted(answer.is_replay for answer in answers) == [False] + [True] * 5
    async with engine.connect() as connection:
        hits = await connection.scalar(text("SELECT hit_count FROM image_classification_cache"))
    assert hits == 1 + 1 + 20
    assert await count_rows(engine, RequestLog) == (21 if options.get("log_enabled", True) else 0)


async def test_a_taken_key_does_not_fail_the_requests_of_the_same_transaction(engine: AsyncEngine) -> None:
    recorder = recorder_on(engine)
    await logged(recorder, key_of("req_0"))
    results = await asyncio.gather(
        *(recorder.record([record(number)]) for number in range(1, 20)),
        logged(recorder, key_of("req_20")),
        *(recorder.record([record(number)]) for number in range(21, 40)),
        logged(recorder, key_of("req_40", key="another")),
        return_exceptions=True,
    )
    failed = [outcome for outcome in results if isinstance(outcome, BaseException)]
    assert [type(error) for error in failed] == [DuplicateRowError]
    assert await count_rows(engine, RequestLog) == 1 + 19 + 19 + 1
    assert {row.request_id for row in await kept_of(engine)} == {"req_0", "req_40"}


async def test_an_answer_is_waited_for_also_where_log_rows_are_not(engine: AsyncEngine) -> None:
    recorder = recorder_on(engine, durability=LogDurability.ASYNC)
    await logged(recorder, key_of())
    assert len(await kept_of(engine)) == await count_rows(engine, RequestLog) == 1


async def test_a_repeat_waits_for_the_first_of_the_same_process(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    service_, recorder, goes_on = IdempotencyService(engine), recorder_on(engine), asyncio.Event()
    first, again = key_of("req_1"), key_of("req_2")

    async def slow() -> str:
        await goes_on.wait()
        return await logged(recorder, first)

    running = asyncio.create_task(service_.answer_once(first, slow))
    await asyncio.sleep(0)
    monkeypatch.setattr(service_module, "WAIT_SECONDS", 0.01)
    with pytest.raises(IdempotencyKeyInUse) as refused:
        await service_.answer_once(again, partial(logged, recorder, again))
    assert refused.value.retry_after_seconds
    monkeypatch.undo()
    waiting = asyncio.create_task(service_.answer_once(again, partial(logged, recorder, again)))
    goes_on.set()
    assert (await running).body == (await waiting).body
    assert await count_rows(engine, RequestLog) == 1


async def test_what_fails_leaves_no_answer(engine: AsyncEngine) -> None:
    """Also a time-out of the request's own, which is not that of waiting for another."""
    key, recorder = key_of(), recorder_on(engine)

    async def fails() -> str:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await IdempotencyService(engine).answer_once(key, fails)
    assert not (await IdempotencyService(engine).answer_once(key, partial(logged, recorder, key))).is_replay


async def test_after_a_day_the_key_is_new(engine: AsyncEngine) -> None:
    once, recorder = IdempotencyService(engine), recorder_on(engine)
    first, again = key_of("req_1"), key_of("req_2", content="other")
    await once.answer_once(first, partial(logged, recorder, first))
    await age_answers(engine, 23)
    assert await once.delete_old() == 0
    with pytest.raises(IdempotencyKeyReused):
        await once.answer_once(again, partial(logged, recorder, again))
    await age_answers(engine, 1)
    assert not (await once.answer_once(again, partial(logged, recorder, again))).is_replay
    assert [row.request_id for row in await kept_of(engine)] == ["req_2"]
    await age_answers(engine, 24)
    assert await once.delete_old() == 1
    assert await kept_of(engine) == []


async def test_a_change_by_hand_ends_an_answer_and_that_of_the_local_model_does_not(engine: AsyncEngine) -> None:
    recorder = recorder_on(engine)
    cache = service(engine)
    await save(cache, IMAGE, result(Category.FOODS), model=LOCAL)
    key, again, later = (key_of(f"req_{number}", images=[IMAGE]) for number in (1, 2, 3))
    await IdempotencyService(engine).answer_once(key, partial(logged, recorder, key))
    await save(cache, IMAGE, result(Category.FOODS), model="another")
    assert await count_rows(engine, CacheChange) == 1
    assert (await IdempotencyService(engine).answer_once(again, partial(logged, recorder, again))).is_replay
    await remove(cache, IMAGE)
    assert not (await IdempotencyService(engine).answer_once(later, partial(logged, recorder, later))).is_replay
    # A process may have answered with its copy just after the change: that one is not told again either.
    last = key_of("req_4", images=[IMAGE])
    assert not (await IdempotencyService(engine).answer_once(last, partial(logged, recorder, last))).is_replay
    async with engine.begin() as connection:
        older = "changed_at - INTERVAL 61 SECOND"
        if engine.dialect.name == "sqlite":
            older = "datetime(changed_at, '-61 seconds')"
        await connection.execute(update(CacheChange).values(changed_at=text(older)))
    final = key_of("req_5", images=[IMAGE])
    assert (await IdempotencyService(engine).answer_once(final, partial(logged, recorder, final))).is_replay


async def test_an_answer_that_is_deleted_between_two_looks_does_no_harm(engine: AsyncEngine) -> None:
    """Only the answer that was found to be over is deleted, not one that another process has written since."""
    recorder = recorder_on(engine)
    old, new = key_of("req_1"), key_of("req_2")
    await logged(recorder, old)
    await age_answers(engine, 25)
    slow, fast = IdempotencyService(engine), IdempotencyService(engine)

    async def answered_meanwhile() -> str:
        await fast.answer_once(new, partial(logged, recorder, new))
        return await logged(recorder, key_of("req_3"))

    answer = await slow.answer_once(key_of("req_3"), answered_meanwhile)
    assert answer == FirstAnswer('{"request_id": "req_2"}', is_replay=True)


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_commit_without_an_answer_is_not_done_twice(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """For the picture and the task, whose transactions go through SQLAlchemy."""
    account, image_id = await make_image(engine)
    tasks, once = tasks_on(engine), IdempotencyService(engine)
    key = key_of()

    async def submit() -> str:
        return (await tasks.submit(account, image_id, "m", keep=lambda task: key.keep(task.id))).id

    with lost_answers(engine, monkeypatch, count=lost) as losses:
        first = await once.answer_once(key, submit)
    assert len(losses) == lost
    assert not first.is_replay
    assert (await once.answer_once(key_of("req_2"), submit)) == FirstAnswer(first.body, is_replay=True)
    assert await count_rows(engine, InferenceTask) == 1


async def test_a_picture_whose_commit_had_no_answer_is_there_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (account,) = await add_users(engine, 1)
    key, once = key_of(), IdempotencyService(engine)
    async with library_on(engine, LocalStorage(tmp_path)) as library:

        async def add() -> str:
            kept = await library.add(account, uploaded(), keep=lambda new: key.keep(str(new.id), image_id=new.id))
            return str(kept.id)

        with lost_answers(engine, monkeypatch, count=1) as losses:
            first = await once.answer_once(key, add)
        assert len(losses) == 1
        assert not first.is_replay
        assert (await once.answer_once(key_of("req_2"), add)) == FirstAnswer(first.body, is_replay=True)
    assert await count_rows(engine, LibraryImage) == await count_rows(engine, IdempotentAnswer) == 1


async def test_a_large_answer_is_kept_byte_for_byte(engine: AsyncEngine) -> None:
    """As large as 500 hits with long sentences; with what an SQL text might take for its own."""
    body = '{"description":"100 %s \\\\ \\u0000 \' \U0001f600 山景"}' * 10_000
    key = key_of()

    async def keep() -> str:
        await write(engine, lambda connection: insert_answer(connection, key.keep(body)))
        return body

    await IdempotencyService(engine).answer_once(key, keep)
    assert (await IdempotencyService(engine).answer_once(key_of("req_2"), keep)) == FirstAnswer(body, is_replay=True)
    recorder = recorder_on(engine)
    other = key_of("req_7", key="other")
    await recorder.record([record(7)], kept=other.keep(body))
    assert [row.body == body for row in await kept_of(engine)] == [True, True]


def test_no_two_callers_share_a_key() -> None:
    parts = [("user", "ab", "c"), ("user", "a", "bc"), ("user", "abc"), ("key", "1", "", "k"), ("user", 'a","b')]
    assert len({digest_of(*each) for each in parts}) == len(parts)
