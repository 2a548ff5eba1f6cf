"""Running tasks in a process: at once when told, soon when not, some at a time, and given back at the end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.errors import ModelRefused, ModelUnreachable
from app.config.settings import CacheSettings, Settings
from app.services.tasks import claims
from app.services.tasks import runner as runner_module
from app.services.tasks.queue import InsideQueue, NoQueue, TaskQueue, create_queue
from app.services.tasks.runner import TaskRunner
from app.services.tasks.service import TaskService
from tests.servers.processes import free_port
from tests.servers.redis import running_redis, silent_server
from tests.support.tasks import (
    FakeInference,
    count_results,
    count_tasks,
    delete_image,
    make_image,
    runs_on,
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


@pytest.fixture
async def runner(engine: AsyncEngine, inference: FakeInference) -> AsyncIterator[TaskRunner]:
    """A runner that looks for tasks by itself."""
    runner = TaskRunner(runs_on(engine), inference, concurrency=3)
    runner.start()
    yield runner
    await runner.close()


async def test_what_nobody_told_about_is_found(
    engine: AsyncEngine, inference: FakeInference, runner: TaskRunner
) -> None:
    user_id, image_id = await make_image(engine)
    ids = [(await tasks_on(engine).submit(user_id, image_id, "dummy")).id for _ in range(20)]
    await until(lambda: _is(count_tasks(engine, "completed"), 20), "all tasks")
    assert sorted(map(str, inference.calls)) == sorted(ids)
    assert await statuses_of(engine, ids[0]) == ["pending", "processing", "completed"]


async def _is(count: object, expected: int) -> bool:
    return await count == expected  # type: ignore[misc,no-any-return]


async def test_what_fails_is_tried_again(engine: AsyncEngine, inference: FakeInference, runner: TaskRunner) -> None:
    user_id, image_id = await make_image(engine)
    inference.script = [ModelUnreachable(), RuntimeError("a bug")]
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "completed"), 1), "the third attempt")
    assert (await tasks_on(engine).get(user_id, task.id)).attempts == 3
    inference.script = [ModelUnreachable()] * 3
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "failed"), 1), "the last attempt")
    assert (await tasks_on(engine).get(user_id, task.id)).error_code == "model_unreachable"
    inference.script = [ModelRefused()]
    await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "failed"), 2), "the refusal")
    assert len(inference.calls) == 7


async def test_told_it_begins_at_once_and_no_more_than_fit(
    engine: AsyncEngine, inference: FakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LOOK_INTERVAL_SECONDS", FAR_AWAY_SECONDS)
    user_id, image_id = await make_image(engine)
    queue = InsideQueue()
    runner = TaskRunner(runs_on(engine), inference, concurrency=3)
    gate = asyncio.Event()
    inference.script = [gate] * 5
    runner.start()
    await queue.listen(runner.run, concurrency=3)
    tasks = TaskService(engine, announce=queue.announce, on_change=lambda: None)
    # The first look is over.
    await asyncio.sleep(0.2)
    for _ in range(7):
        await tasks.submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "processing"), 3), "three at once")
    await asyncio.sleep(0.2)
    assert (len(inference.calls), await count_tasks(engine, "pending")) == (3, 4)
    gate.set()
    await until(lambda: _is(count_tasks(engine, "completed"), 7), "all")
    await runner.close()
    await queue.close()
    assert await count_results(engine) == 7


async def test_at_the_end_what_runs_is_finished_or_given_back(
    engine: AsyncEngine, inference: FakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough for a slow disk.
    monkeypatch.setattr(runner_module, "GRACE_SECONDS", 3.0)
    user_id, image_id = await make_image(engine)
    gate, never = asyncio.Event(), asyncio.Event()
    inference.script = [gate, never]
    runner = TaskRunner(runs_on(engine), inference, concurrency=2)
    runner.start()
    for _ in range(3):
        await tasks_on(engine).submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "processing"), 2), "two at once")
    closing = asyncio.create_task(runner.close())
    await asyncio.sleep(0.05)
    gate.set()
    await closing
    assert (await count_tasks(engine, "completed"), await count_tasks(engine, "pending")) == (1, 2)
    # Both can be begun at once, by the next.
    second = TaskRunner(runs_on(engine), inference, concurrency=2)
    second.start()
    await until(lambda: _is(count_tasks(engine, "completed"), 3), "the rest")
    await second.close()
    assert {task.attempts for task in (await tasks_on(engine).page(user_id, skip=0, limit=9, status=None)).items} == {1}


async def test_a_long_run_is_renewed_and_a_lost_one_is_taken_over(
    engine: AsyncEngine, inference: FakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1)
    monkeypatch.setattr(runner_module, "RENEW_SECONDS", 0.2)
    user_id, image_id = await make_image(engine)
    gate = asyncio.Event()
    inference.script = [gate]
    task = await tasks_on(engine).submit(user_id, image_id, "dummy")
    first, second = (TaskRunner(runs_on(engine), inference, concurrency=1) for _ in range(2))
    first.start()
    await until(lambda: _is(count_tasks(engine, "processing"), 1), "the first to begin")
    second.start()
    await asyncio.sleep(2)
    assert len(inference.calls) == 1
    # As if the first were gone: it renews no more.
    first._loops[1].cancel()
    await until(lambda: _is(count_tasks(engine, "completed"), 1), "the second to take over")
    gate.set()
    await first.close()
    await second.close()
    assert await statuses_of(engine, task.id) == ["pending", "processing", "processing", "completed"]
    assert await count_results(engine, task.id) == 1


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
    await until(lambda: _is(count_tasks(engine, "completed"), 1), "the next")
    assert await count_results(engine) == 1


def redis_settings(address: str) -> Settings:
    return Settings(cache=CacheSettings.model_validate({"redis_url": address}))


def redis_queue(address: str) -> TaskQueue:
    return create_queue(redis_settings(address), key_space="test", runs_tasks=True)


async def test_redis_wakes_one_of_those_who_listen(
    engine: AsyncEngine, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LOOK_INTERVAL_SECONDS", FAR_AWAY_SECONDS)
    user_id, image_id = await make_image(engine)
    sender = create_queue(redis_settings(redis_url), key_space="test", runs_tasks=False)
    inferences = [FakeInference(engine) for _ in range(2)]
    runners = [TaskRunner(runs_on(engine), each, concurrency=2) for each in inferences]
    queues = [redis_queue(redis_url) for _ in runners]
    for runner, queue in zip(runners, queues, strict=True):
        runner.start()
        await queue.listen(runner.run, concurrency=2)
    with redis.Redis.from_url(redis_url) as client:
        await until(lambda: _is(_readers(client), 2), "both to listen")
    tasks = TaskService(engine, announce=sender.announce, on_change=lambda: None)
    for _ in range(30):
        await tasks.submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "completed"), 30), "all")
    assert sum(len(each.calls) for each in inferences) == 30
    assert all(each.calls for each in inferences)
    for runner in runners:
        await runner.close()
    for queue in (*queues, sender):
        await queue.close()
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys("ic1-tasks:*")
        (group,) = client.xinfo_groups(key)
        assert (group["consumers"], group["pending"]) == (0, 0)


async def _readers(client: redis.Redis) -> int:
    """How many connections wait for messages."""
    return sum(each["cmd"].startswith("xreadgroup") for each in client.client_list())


async def test_redis_may_go_and_come_back_empty(engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> None:
    user_id, image_id = await make_image(engine)
    port = free_port()
    inference = FakeInference(engine)
    with running_redis(tmp_path_factory.mktemp("redis"), port=port) as (address, _):
        queue = redis_queue(address)
        runner = TaskRunner(runs_on(engine), inference, concurrency=2)
        runner.start()
        await queue.listen(runner.run, concurrency=2)
        tasks = TaskService(engine, announce=queue.announce, on_change=lambda: None)
        for _ in range(5):
            await tasks.submit(user_id, image_id, "dummy")
        await until(lambda: _is(count_tasks(engine, "completed"), 5), "the first")
    for _ in range(5):
        await tasks.submit(user_id, image_id, "dummy")
    await until(lambda: _is(count_tasks(engine, "completed"), 10), "what was asked for without Redis")
    with running_redis(tmp_path_factory.mktemp("redis"), port=port), redis.Redis(port=port) as client:
        await until(lambda: _is(_readers(client), 1), "it to listen again")
        for _ in range(5):
            await tasks.submit(user_id, image_id, "dummy")
        await until(lambda: _is(count_tasks(engine, "completed"), 15), "the rest")
        assert len(client.keys("ic1-tasks:*")) == 1
        await runner.close()
        await queue.close()
    assert len(inference.calls) == 15


async def test_a_redis_that_never_answers_is_done_without(engine: AsyncEngine) -> None:
    user_id, image_id = await make_image(engine)
    inference = FakeInference(engine)
    async with silent_server() as address:
        queue = redis_queue(address)
        runner = TaskRunner(runs_on(engine), inference, concurrency=2)
        runner.start()
        await queue.listen(runner.run, concurrency=2)
        tasks = TaskService(engine, announce=queue.announce, on_change=lambda: None)
        for _ in range(5):
            await tasks.submit(user_id, image_id, "dummy")
        await until(lambda: _is(count_tasks(engine, "completed"), 5), "all")
        # Below what Docker gives a container to end.
        async with asyncio.timeout(10):
            await runner.close()
            await queue.close()


async def test_without_redis_only_who_runs_tasks_is_told(settings: Settings) -> None:
    assert isinstance(create_queue(settings, key_space="", runs_tasks=False), NoQueue)
    queue = create_queue(settings, key_space="", runs_tasks=True)
    assert isinstance(queue, InsideQueue)
    await queue.close()
