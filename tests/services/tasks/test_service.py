"""What a task is: its states, who may change it, and an event for each change."""

import asyncio
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.errors import ModelBusy, ModelRefused, ModelUnreachable
from app.clock import utc_now
from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.heartbeat import Heartbeat
from app.database.statements import can_skip_locked
from app.database.tables.inference import InferenceTask, TaskEvent
from app.database.transactions import write
from app.errors import ImageNotFound, TaskNotFound, TaskNotPending, TooManyTasks
from app.observability import metrics
from app.services.tasks import claims
from app.services.tasks import service as tasks
from app.services.tasks.claims import ClaimLostError
from app.services.tasks.record import Task, TaskStatus
from app.services.tasks.retention import EVENTS_KEPT, TaskRetention
from tests.support.databases import TestDatabase
from tests.support.tasks import (
    FakeInference,
    claims_on,
    count_results,
    delete_image,
    events_of,
    let_it_stall,
    make_image,
    statuses_of,
    tasks_on,
)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BACKOFF_FIRST_SECONDS", 0.0)


@pytest.fixture
def may_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process has beaten for long enough to judge others."""
    monkeypatch.setattr(Heartbeat, "can_judge", True)
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.0)


async def run(engine: AsyncEngine, task: Task) -> None:
    """Run a claimed task to its end."""
    runs = claims_on(engine)
    await FakeInference(engine).infer(
        task.user_id,
        task.image_id,
        task.model_name,
        task_id=task.id,
        on_saved=lambda connection, result_id: runs.complete(connection, task, result_id),
    )


async def test_a_life_and_its_events(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    tasks, runs = tasks_on(engine), claims_on(engine)
    task = await tasks.submit(user_id, image_id, "dummy")
    assert (task.status, task.attempts, task.image_id, task.model_name) == ("pending", 0, image_id, "dummy")
    (claimed,) = await runs.claim(10)
    assert (claimed.id, claimed.status, claimed.attempts) == (task.id, "processing", 1)
    assert await runs.claim(10) == []
    await run(engine, claimed)
    done = await tasks.get(user_id, task.id)
    assert (done.status, done.attempts, done.error_code) == ("completed", 1, None)
    assert done.result_id is not None
    assert done.body()["result_url"] == f"/images/inference/{done.result_id}"
    events = await events_of(engine, task.id)
    assert [event["status"] for event in events] == ["pending", "processing", "completed"]
    assert events[-1] == {"event": "task", **done.body()}
    assert await runs.claim(10) == []


async def test_only_one_of_many_gets_a_task(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    ids = [(await tasks_on(engine).submit(user_id, image_id, "dummy")).id for _ in range(5)]
    claims = await asyncio.gather(*(claims_on(engine).claim(5) for _ in range(6)))
    assert sorted(task.id for claim in claims for task in claim) == sorted(ids)
    assert len(await events_of(engine, ids[0])) == 2


async def test_the_oldest_come_first_and_no_more_than_there_is_room_for(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    ids = []
    for _ in range(4):
        ids.append((await tasks_on(engine).submit(user_id, image_id, "dummy")).id)
        # The database's clock has milliseconds.
        await asyncio.sleep(0.002)
    claims = [await claims_on(engine).claim(limit) for limit in (1, 2, 9, 9)]
    assert [{task.id for task in claim} for claim in claims] == [{ids[0]}, {*ids[1:3]}, {ids[3]}, set()]


async def test_rows_that_another_process_locks_are_passed_over(mysql_database: TestDatabase) -> None:
    """A worker takes other tasks in place of waiting for the one that is about to be claimed."""
    engine = create_engine(Settings(database=mysql_database.settings))
    try:
        user_id, image_id = await make_image(engine)
        first, second = [await tasks_on(engine).submit(user_id, image_id, "dummy") for _ in range(2)]
        async with engine.begin() as other:
            await other.execute(select(InferenceTask.id).where(InferenceTask.id == first.id).with_for_update())
            (claimed,) = await claims_on(engine).claim(9)
            assert claimed.id == second.id
        (claimed,) = await claims_on(engine).claim(9)
        assert claimed.id == first.id
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("version", "is_mariadb", "expected"),
    [((8, 0, 1), False, True), ((8, 0, 0), False, False), ((10, 6, 0), True, True), ((10, 5, 29), True, False)],
)
def test_only_servers_that_can_are_asked_to_skip_locked_rows(
    version: tuple[int, ...], is_mariadb: bool, expected: bool
) -> None:
    dialect = MySQLDialect(is_mariadb=is_mariadb)
    dialect.server_version_info = version
    assert can_skip_locked(dialect) is expected


@pytest.mark.usefixtures("may_judge")
async def test_a_task_of_a_stalled_process_is_run_again_and_counts_once(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    stalled, other = claims_on(engine), claims_on(engine)
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    (first,) = await stalled.claim(1)
    assert await other.claim(1) == []
    assert other.sees_others
    await let_it_stall(engine, stalled)
    (second,) = await other.claim(1)
    assert (second.id, second.attempts) == (task.id, 2)
    # A process that goes on after it has stalled changes nothing.
    with pytest.raises(ClaimLostError):
        await run(engine, first)
    await stalled.fail(first, ModelRefused())
    await stalled.give_back([first])
    assert await count_results(engine) == 0
    await run(engine, second)
    with pytest.raises(IntegrityError):
        await run(engine, second)
    assert await count_results(engine, task.id) == 1
    assert await statuses_of(engine, task.id) == ["pending", "processing", "processing", "completed"]
    assert await other.claim(1) == []
    assert not other.sees_others


@pytest.mark.usefixtures("may_judge")
async def test_one_of_many_gets_the_task_of_a_stalled_process(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    stalled = claims_on(engine)
    ids = {(await tasks_on(engine).submit(user_id, image_id, "dummy")).id for _ in range(5)}
    assert {task.id for task in await stalled.claim(5)} == ids
    await let_it_stall(engine, stalled)
    taken = await asyncio.gather(*(claims_on(engine).claim(5) for _ in range(6)))
    assert sorted(task.id for each in taken for task in each) == sorted(ids)


async def test_a_process_that_has_not_beaten_itself_takes_nothing_over(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    stalled, other = claims_on(engine), claims_on(engine)
    await tasks_on(engine).submit(user_id, image_id, "dummy")
    assert len(await stalled.claim(1)) == 1
    await let_it_stall(engine, stalled)
    assert await other.claim(1) == []
    # It beats from now on, and may judge soon.
    assert other.sees_others


@pytest.mark.usefixtures("may_judge")
async def test_what_a_process_has_claimed_and_does_not_run_it_claims_again(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    claims = claims_on(engine)
    await tasks_on(engine).submit(user_id, image_id, "dummy")
    (task,) = await claims.claim(1)
    assert await claims.claim(1, [task]) == []
    (again,) = await claims.claim(1)
    assert (again.id, again.attempts) == (task.id, 2)
    assert again.claim != task.claim


async def test_a_claim_whose_answer_was_lost_is_known(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    user_id, image_id = await make_image(engine)
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")

    async def commit_twice(engine: AsyncEngine, work: Any, **options: Any) -> Any:
        await write(engine, work, **options)
        return await write(engine, work, **options)

    monkeypatch.setattr(claims, "write", commit_twice)
    (claimed,) = await claims_on(engine).claim(1)
    assert (claimed.id, claimed.attempts) == (task.id, 1)
    assert await statuses_of(engine, task.id) == ["pending", "processing"]


@pytest.mark.usefixtures("may_judge")
async def test_what_kills_each_process_that_runs_it_has_failed(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    tasks = tasks_on(engine)
    task = await tasks.submit(user_id, image_id, "dummy")
    for _ in range(2):
        killed = claims_on(engine, max_attempts=2)
        assert len(await killed.claim(10)) == 1
        await let_it_stall(engine, killed)
    assert await claims_on(engine, max_attempts=2).claim(10) == []
    assert (await tasks.get(user_id, task.id)).body()["error"]["code"] == "internal_error"
    assert (await statuses_of(engine, task.id))[-1] == "failed"


async def test_a_failing_model_is_tried_again_and_then_the_task_has_failed(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    tasks, runs = tasks_on(engine), claims_on(engine, max_attempts=3)
    task = await tasks.submit(user_id, image_id, "dummy")
    for error in (ModelUnreachable(), RuntimeError("key sk-123"), ModelUnreachable()):
        (claimed,) = await runs.claim(10)
        await runs.fail(claimed, error)
    body = (await tasks.get(user_id, task.id)).body()
    assert (body["status"], body["attempts"]) == ("failed", 3)
    assert body["error"] == {"code": "model_unreachable", "message": ModelUnreachable.message}
    assert await statuses_of(engine, task.id) == ["pending", "processing"] * 3 + ["failed"]
    assert await runs.claim(10) == []


async def test_what_will_not_pass_is_not_tried_again(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    runs = claims_on(engine)
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    (claimed,) = await runs.claim(1)
    await runs.fail(claimed, ModelRefused())
    assert await statuses_of(engine, task.id) == ["pending", "processing", "failed"]


async def test_the_next_attempt_waits(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    user_id, image_id = await make_image(engine)
    tasks, runs = tasks_on(engine), claims_on(engine)
    task = await tasks.submit(user_id, image_id, "dummy")
    (claimed,) = await runs.claim(1)
    await runs.fail(claimed, ModelBusy(retry_after_seconds=60))
    assert await runs.claim(10) == []
    # Nothing runs, so it can be cancelled.
    assert (await tasks.cancel(user_id, task.id)).status == "cancelled"
    monkeypatch.setattr(claims, "BACKOFF_FIRST_SECONDS", 2.0)
    for attempts, (shortest, longest) in {1: (1, 2), 2: (2, 4), 3: (4, 8), 30: (60, 120)}.items():
        assert shortest <= claims._pause(attempts, 0) <= longest
    assert claims._pause(1, 5) == 5
    assert claims._pause(1, 100_000) == claims.BACKOFF_MAX_SECONDS


async def test_what_is_given_back_is_due_at_once_and_has_lost_no_attempt(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    runs = claims_on(engine)
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    claimed = await runs.claim(1)
    await runs.give_back(claimed)
    (again,) = await runs.claim(10)
    assert again.attempts == 1
    assert await statuses_of(engine, task.id) == ["pending", "processing"] * 2


async def test_cancelling(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    other_id, _ = await make_image(engine, "other")
    tasks, runs = tasks_on(engine), claims_on(engine)
    task = await tasks.submit(user_id, image_id, "dummy")
    with pytest.raises(TaskNotFound):
        await tasks.cancel(other_id, task.id)
    assert (await tasks.cancel(user_id, task.id)).status == "cancelled"
    assert await runs.claim(10) == []
    with pytest.raises(TaskNotPending):
        await tasks.cancel(user_id, task.id)
    running = await tasks.submit(user_id, image_id, "dummy")
    assert len(await runs.claim(1)) == 1
    with pytest.raises(TaskNotPending):
        await tasks.cancel(user_id, running.id)
    assert await statuses_of(engine, task.id) == ["pending", "cancelled"]
    assert await statuses_of(engine, running.id) == ["pending", "processing"]


async def test_either_it_is_cancelled_or_it_runs(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    tasks, runs = tasks_on(engine), claims_on(engine)
    for _ in range(5):
        task = await tasks.submit(user_id, image_id, "dummy")
        outcome = await asyncio.gather(tasks.cancel(user_id, task.id), runs.claim(1), return_exceptions=True)
        was_cancelled, was_claimed = isinstance(outcome[0], Task), outcome[1] != []
        assert was_cancelled != was_claimed
        assert len(await events_of(engine, task.id)) == 2


async def test_an_account_has_at_most_so_many_unfinished(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_UNFINISHED", 4)
    user_id, image_id = await make_image(engine)
    other_id, other_image = await make_image(engine, "other")
    attempts = [tasks_on(engine).submit(user_id, image_id, "dummy") for _ in range(9)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, Task)]
    assert len(made) == 4
    assert {type(outcome) for outcome in outcomes} == {Task, TooManyTasks}
    await tasks_on(engine).submit(other_id, other_image, "dummy")
    # One that runs counts, one that has ended does not.
    (claimed,) = await claims_on(engine).claim(1)
    with pytest.raises(TooManyTasks):
        await tasks_on(engine).submit(user_id, image_id, "dummy")
    await run(engine, claimed)
    await tasks_on(engine).cancel(user_id, next(task.id for task in made if task.id != claimed.id))
    for _ in range(2):
        await tasks_on(engine).submit(user_id, image_id, "dummy")
    with pytest.raises(TooManyTasks):
        await tasks_on(engine).submit(user_id, image_id, "dummy")


async def test_things_of_another_account_do_not_exist(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    other_id, _ = await make_image(engine, "other")
    tasks = tasks_on(engine)
    for who, image in ((other_id, image_id), (user_id, image_id + 1000)):
        with pytest.raises(ImageNotFound):
            await tasks.submit(who, image, "dummy")
    task = await tasks.submit(user_id, image_id, "dummy")
    for who, task_id in ((other_id, task.id), (user_id, "0" * 32), (user_id, task.id + " "), (user_id, "\ud800")):
        with pytest.raises(TaskNotFound):
            await tasks.get(who, task_id)
    assert await tasks.page(other_id, skip=0, limit=10, status=None) == ([], 0)


def shown_unfinished() -> dict[str, float]:
    """What `/metrics` says of them."""
    return {status: metrics.TASKS_UNFINISHED.labels(status)._value.get() for status in ("pending", "processing")}


async def test_what_is_not_finished_is_shown_by_status(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    tasks = tasks_on(engine)
    await tasks.show_unfinished()
    assert shown_unfinished() == {"pending": 0, "processing": 0}
    cancelled, *_ = [await tasks.submit(user_id, image_id, "dummy") for _ in range(3)]
    await tasks.cancel(user_id, cancelled.id)
    (claimed,) = await claims_on(engine).claim(1)
    await tasks.show_unfinished()
    assert shown_unfinished() == {"pending": 1, "processing": 1}
    await run(engine, claimed)
    await tasks.show_unfinished()
    assert shown_unfinished() == {"pending": 1, "processing": 0}


async def test_what_a_database_that_is_away_does_not_say_is_no_number(tmp_path: Path) -> None:
    away = create_engine(Settings(data_dir=tmp_path / "missing" / "folder"))
    try:
        await tasks_on(away).show_unfinished()
        assert all(math.isnan(number) for number in shown_unfinished().values())
    finally:
        await away.dispose()


async def test_pages(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    tasks = tasks_on(engine)
    ids = [(await tasks.submit(user_id, image_id, "dummy")).id for _ in range(5)]
    await tasks.cancel(user_id, ids[0])
    first = await tasks.page(user_id, skip=0, limit=3, status=None)
    rest = await tasks.page(user_id, skip=3, limit=3, status=None)
    assert (first.total, rest.total, len(first.items), len(rest.items)) == (5, 5, 3, 2)
    assert {task.id for task in (*first.items, *rest.items)} == set(ids)
    cancelled = await tasks.page(user_id, skip=0, limit=3, status=TaskStatus.CANCELLED)
    assert ([task.id for task in cancelled.items], cancelled.total) == ([ids[0]], 1)


async def test_an_image_that_is_deleted_takes_its_tasks_along(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    runs = claims_on(engine)
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    (claimed,) = await runs.claim(1)
    await delete_image(engine, image_id)
    await runs.fail(claimed, ImageNotFound())
    await runs.give_back([claimed])
    assert await runs.claim(10) == []
    # Neither do its events tell of it any longer.
    assert await statuses_of(engine, task.id) == []


async def test_old_tasks_and_events_are_deleted_and_results_stay(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    tasks, runs = tasks_on(engine), claims_on(engine)
    ids = [(await tasks.submit(user_id, image_id, "dummy")).id for _ in range(3)]
    done, running = await runs.claim(2)
    (waiting,) = {*ids} - {done.id, running.id}
    await run(engine, done)

    async def age(connection: AsyncConnection) -> None:
        await connection.execute(update(InferenceTask).values(updated_at=utc_now() - timedelta(days=31)))
        of_others = select(TaskEvent.id).where(TaskEvent.task_id != done.id).order_by(TaskEvent.id)
        first = (await connection.scalars(of_others.limit(2))).all()
        yesterday = (utc_now() - EVENTS_KEPT - timedelta(seconds=1)).replace(tzinfo=None)
        await connection.execute(update(TaskEvent).where(TaskEvent.id.in_(first)).values(created_at=yesterday))

    expiry = TaskRetention(engine, keep_days=30)
    assert await expiry.delete_old() == (0, 0)
    await write(engine, age)
    assert await expiry.delete_old() == (1, 2)
    with pytest.raises(TaskNotFound):
        await tasks.get(user_id, done.id)
    assert {task.id for task in (await tasks.page(user_id, skip=0, limit=9, status=None)).items} == {
        running.id,
        waiting,
    }
    assert await count_results(engine) == 1
