"""Running tasks in a process: at once when woken, soon when not, some at a time, and given back at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from unittest.mock import AsyncMock

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.errors import ModelRefused, ModelUnreachable
from app.config.model import ModelSettings
from app.config.settings import Settings, TaskSettings
from app.database import heartbeat as heartbeat_module
from app.database.heartbeat import Heartbeat
from app.errors import DatabaseUnavailable
from app.runtime.background import running
from app.services.events import redis_signal
from app.services.events.redis_signal import RedisSignal
from app.services.redis import RedisClient
from app.services.tasks import claims
from app.services.tasks import runner as runner_module
from app.services.tasks.claims import TaskClaims
from app.services.tasks.lifespan import open_tasks
from app.services.tasks.runner import TaskRunner
from app.services.tasks.service import TaskService
from tests.servers.processes import free_port
from tests.servers.redis import running_redis, silent_server
from tests.support.tasks import (
    FakeInference,
    claims_on,
    count_results,
    count_tasks,
    delete_image,
    make_image,
    statuses_of,
    tasks_on,
    until,
)

FAR_AWAY_SECONDS = 3600.0


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BACKOFF_FIRST_SECONDS", 0.0)


@pytest.fixture
async def inference(engine: AsyncEngine) -> FakeInference:
    return FakeInference(engine)


@asynccontextmanager
async def running_tasks(claims: TaskClaims, inference: FakeInference, *, concurrency: int) -> AsyncIterator[TaskRunner]:
    """What runs tasks in one process."""
    runner = TaskRunner(claims, inference, concurrency=concurrency)
    async with runner.running():
        yield runner
    await claims.heartbeat.close()


@pytest.fixture
async def runner(engine: AsyncEngine, inference: FakeInference) -> AsyncIterator[TaskRunner]:
    """A runner that looks for tasks by itself."""
    async with running_tasks(claims_on(engine), inference, concurrency=3) as runner:
        yield runner


async def test_a_task_without_a_wake_up_is_found(
    engine: AsyncEngine, inference: FakeInference, runner: TaskRunner
) -> None:
    user_id, image_id = await make_image(engine)
    ids = [(await tasks_on(engine).submit(user_id, image_id, "dummy")).id for _ in range(20)]
    await until(partial(_is_completed, engine, 20), "all tasks")
    assert sorted(map(str, inference.calls)) == sorted(ids)
    assert await statuses_of(engine, ids[0]) == ["pending", "processing", "completed"]


async def _is(count: object, expected: int) -> bool:
    return await count == expected  # type: ignore[misc,no-any-return]


async def test_what_fails_is_tried_again(engine: AsyncEngine, inference: FakeInference, runner: TaskRunner) -> None:
    user_id, image_id = await make_image(engine)
    inference.script = [ModelUnreachable(), RuntimeError("a bug")]
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(partial(_is_completed, engine, 1), "the third attempt")
    assert (await tasks_on(engine).get(user_id, task.id)).attempts == 3
    inference.script = [ModelUnreachable()] * 3
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "failed"), 1), "the last attempt")
    assert (await tasks_on(engine).get(user_id, task.id)).error_code == "model_unreachable"
    inference.script = [ModelRefused()]
    await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "failed"), 2), "the refusal")
    assert len(inference.calls) == 7


async def test_woken_it_begins_at_once_and_no_more_than_fit(
    engine: AsyncEngine, inference: FakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LOOK_SECONDS", FAR_AWAY_SECONDS)
    user_id, image_id = await make_image(engine)
    gate = asyncio.Event()
    inference.script = [gate] * 5
    async with running_tasks(claims_on(engine), inference, concurrency=3) as runner:
        tasks = TaskService(engine, wake=runner.wake, on_change=lambda: None)
        # The first look is over.
        await asyncio.sleep(0.2)
        for _ in range(7):
            await tasks.submit(user_id, image_id, "dummy")
        await until(lambda: _is(count_tasks(engine, "processing"), 3), "three at once")
        await asyncio.sleep(0.2)
        assert (len(inference.calls), await count_tasks(engine, "pending")) == (3, 4)
        gate.set()
        await until(partial(_is_completed, engine, 7), "all")
    assert await count_results(engine) == 7


async def test_at_the_end_what_runs_is_finished_or_given_back(
    engine: AsyncEngine, inference: FakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough for a slow disk.
    monkeypatch.setattr(runner_module, "GRACE_SECONDS", 3.0)
    user_id, image_id = await make_image(engine)
    gate, never = asyncio.Event(), asyncio.Event()
    inference.script = [gate, never]
    async with running_tasks(claims_on(engine), inference, concurrency=2):
        for _ in range(3):
            await tasks_on(engine).submit(user_id, image_id, "dummy")
        await until(lambda: _is(count_tasks(engine, "processing"), 2), "two at once")
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert (await count_tasks(engine, "completed"), await count_tasks(engine, "pending")) == (1, 2)
    # Both can be begun at once, by the next.
    async with running_tasks(claims_on(engine), inference, concurrency=2):
        await until(partial(_is_completed, engine, 3), "the rest")
    assert {task.attempts for task in (await tasks_on(engine).page(user_id, skip=0, limit=9, status=None)).items} == {1}


async def test_a_long_run_is_kept_and_that_of_a_stalled_process_is_taken_over(
    engine: AsyncEngine, inference: FakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LOOK_SECONDS", 0.2)
    user_id, image_id = await make_image(engine)
    gate = asyncio.Event()
    inference.script = [gate]
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    first, second = claims_on(engine), claims_on(engine)
    async with running_tasks(first, inference, concurrency=1):
        await until(lambda: _is(count_tasks(engine, "processing"), 1), "the first to begin")
        async with running_tasks(second, inference, concurrency=1):
            await until(lambda: _so(second.heartbeat.can_judge), "the second to beat for long enough")
            await asyncio.sleep(0.5)
            assert len(inference.calls) == 1
            # As if the first stood still: it beats no more.
            monkeypatch.setattr(first.heartbeat, "_beat", AsyncMock())
            await first.heartbeat.close()
            await until(partial(_is_completed, engine, 1), "the second to take over")
            gate.set()
    assert await statuses_of(engine, task.id) == ["pending", "processing", "processing", "completed"]
    assert await count_results(engine, task.id) == 1


async def test_a_database_that_was_away_is_asked_again(
    engine: AsyncEngine, inference: FakeInference, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner._claims, "claim", AsyncMock(side_effect=DatabaseUnavailable()))
    user_id, image_id = await make_image(engine)
    await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(lambda: _so(runner._outage.is_out), "a look that fails")
    monkeypatch.undo()
    await until(partial(_is_completed, engine, 1), "the task")
    # A look from before the outage may have found the task, and the one that ends it is still to come.
    await until(lambda: _so(not runner._outage.is_out), "a look that does not fail")


async def _is_completed(engine: AsyncEngine, count: int) -> bool:
    return await count_tasks(engine, "completed") == count


async def _so(value: bool) -> bool:
    return value


async def test_a_picture_that_is_deleted_meanwhile_disturbs_nothing(
    engine: AsyncEngine, inference: FakeInference, runner: TaskRunner
) -> None:
    user_id, image_id = await make_image(engine)
    gate = asyncio.Event()
    inference.script = [gate]
    await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "processing"), 1), "it to begin")
    await delete_image(engine, image_id)
    gate.set()
    other_id, other_image = await make_image(engine, "other")
    await tasks_on(engine).submit(other_id, other_image, "dummy")
    await until(partial(_is_completed, engine, 1), "the next")
    assert await count_results(engine) == 1


@asynccontextmanager
async def process(
    engine: AsyncEngine,
    redis_url: str,
    inference: FakeInference,
    *,
    workers: str = "inside",
    redis_timeout_seconds: float = 30.0,
) -> AsyncIterator[tuple[TaskService, RedisSignal]]:
    """What one process has of tasks, with Redis."""
    client = RedisClient(redis_url, key_space="test", timeout_seconds=redis_timeout_seconds)
    signal = RedisSignal(client)
    heartbeat = Heartbeat(engine)
    settings = Settings(task=TaskSettings.model_validate({"workers": workers}), model=ModelSettings(max_concurrency=4))
    async with running(signal.run(), name="signal"):
        opened = open_tasks(
            settings,
            engine,
            heartbeat,
            inference=inference,
            on_change=lambda: None,
            signal=signal,
            is_worker=False,
        )
        async with opened as (tasks, _):
            yield tasks, signal
    await heartbeat.close()
    await signal.close()
    await client.close()


async def test_redis_wakes_the_runners_of_other_processes(
    engine: AsyncEngine, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LOOK_SECONDS", FAR_AWAY_SECONDS)
    # None of them takes another for dead, however busy the machine is.
    monkeypatch.setattr(heartbeat_module, "STALLED_SECONDS", int(FAR_AWAY_SECONDS))
    user_id, image_id = await make_image(engine)
    serving, *workers = (FakeInference(engine) for _ in range(3))
    gate = asyncio.Event()
    for each in workers:
        each.script = [gate] * 2
    async with (
        process(engine, redis_url, serving, workers="outside") as (tasks, _),
        process(engine, redis_url, workers[0]) as (_, first),
        process(engine, redis_url, workers[1]) as (_, second),
    ):
        await until(lambda: _so(first.in_contact and second.in_contact), "both to listen")
        for _ in range(30):
            await tasks.submit(user_id, image_id, "dummy")
        await until(lambda: _so([len(each.calls) for each in workers] == [2, 2]), "both to have no more room")
        gate.set()
        await until(partial(_is_completed, engine, 30), "all")
    assert sum(len(each.calls) for each in workers) == 30
    assert serving.calls == []


async def test_redis_may_go_and_come_back_empty(
    engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_signal, "RETRY_SECONDS", 0.1)
    user_id, image_id = await make_image(engine)
    port = free_port()
    idle, inference = FakeInference(engine), FakeInference(engine)
    address = f"redis://127.0.0.1:{port}/0"
    async with (
        process(engine, address, idle, workers="outside") as (tasks, _),
        process(engine, address, inference) as (_, signal),
    ):
        for total in (10, 20):
            for _ in range(5):
                await tasks.submit(user_id, image_id, "dummy")
            await until(partial(_is_completed, engine, total - 5), "those without Redis")
            with running_redis(tmp_path_factory.mktemp("redis"), port=port):
                await until(lambda: _so(signal.in_contact), "contact with Redis")
                for _ in range(5):
                    await tasks.submit(user_id, image_id, "dummy")
                await until(partial(_is_completed, engine, total), "all")
            await until(lambda: _so(not signal.in_contact), "Redis to be missed")
    assert len(inference.calls) == 20


async def test_a_redis_that_never_answers_is_done_without(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    async with (
        silent_server() as address,
        # Below what Docker gives a container to end.
        asyncio.timeout(120),
        process(engine, address, FakeInference(engine), redis_timeout_seconds=0.2) as (tasks, _),
    ):
        for _ in range(5):
            await tasks.submit(user_id, image_id, "dummy")
        await until(partial(_is_completed, engine, 5), "all")
