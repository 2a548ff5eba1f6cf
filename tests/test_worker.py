"""Real worker processes: what they are killed over is run again, once; what they cannot finish they give back."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import ClientConnection, connect

from app.config.settings import PROJECT_ROOT, Settings
from app.services.tasks.runner import GRACE_SECONDS
from tests.fakes.images import jpeg_photo
from tests.fakes.model_server import FakeModelServer
from tests.servers.processes import RunningProcess, free_port, start_process
from tests.servers.waiting import wait_until
from tests.support.people import USER, bearer
from tests.support.running import IMPORTS, running

BATCHES = (250, 250)
IMAGES_PER_BATCH = 6
TASKS_PER_WORKER = 8


class Service:
    """A user who is logged in to a running service."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        client.post("/users/", json=USER).raise_for_status()
        token = client.post("/users/token", data=USER).raise_for_status().json()["access_token"]
        client.headers.update(bearer(token))

    def upload(self, width: int) -> int:
        files = {"file": ("image.jpg", jpeg_photo(width, 64), "image/jpeg")}
        return int(self.client.post("/images/upload", files=files).raise_for_status().json()["image_id"])

    def ask(self, image_id: int) -> str:
        body = {"image_id": image_id, "model_name": "default"}
        answer = self.client.post("/images/inference/async", json=body).raise_for_status()
        return str(answer.json()["task_id"])

    def task(self, task_id: str) -> Any:
        return self.client.get(f"/images/inference/tasks/{task_id}").raise_for_status().json()

    def count(self, status: str) -> int:
        """How many tasks are in a state."""
        query = {"status": status, "limit": "1"}
        answer = self.client.get("/images/inference/tasks", params=query).raise_for_status()
        return int(answer.json()["total"])

    def wait_for_more(self, status: str, *, than: int) -> None:
        """Wait until more than so many tasks are in a state."""
        wait_until(lambda: self.count(status) > than, f"more than {than} tasks that are {status}")

    def wait_for_completed(self, tasks: int) -> None:
        """Wait until so many tasks are completed."""
        # The processes that run them have the same cores.
        wait_until(lambda: self.count("completed") == tasks, "all tasks", within_seconds=300, poll_seconds=0.2)

    def all_of(self, path: str) -> list[Any]:
        """All items of a list."""
        items: list[Any] = []
        while True:
            page = self.client.get(path, params={"skip": len(items), "limit": 100}).raise_for_status().json()
            items += page["items"]
            if len(items) >= page["total"]:
                return items


@contextmanager
def worker(environment: Mapping[str, str]) -> Iterator[RunningProcess]:
    """A process that runs tasks; it may not be ready yet."""
    with start_process(
        [sys.executable, "-m", "app.worker"], ready=lambda: True, env=environment, cwd=PROJECT_ROOT, imports=IMPORTS
    ) as process:
        yield process


def wait_for_workers(*processes: RunningProcess) -> None:
    wait_until(
        lambda: all("task worker: ready" in process.output() for process in processes), "the workers to be ready"
    )


@pytest.fixture
def outside(environment: dict[str, str], empty_database: Settings, tmp_path: Path) -> dict[str, str]:
    """Variables of a service that leaves tasks to workers, and of these."""
    (tmp_path / "tmp").mkdir()
    assert empty_database.database.url is not None
    return {
        **environment,
        "DATABASE_URL": empty_database.database.url.get_secret_value(),
        "TASK_WORKERS": "outside",
    }


@contextmanager
def service_with(environment: Mapping[str, str]) -> Iterator[Service]:
    port = free_port()
    with (
        running("uvicorn", port, {**environment, "APP_PORT": str(port)}),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        yield Service(client)


@pytest.mark.parametrize("database_kind", ["mysql"], indirect=True)
def test_workers_that_are_killed_lose_nothing_and_do_nothing_twice(
    outside: dict[str, str], model_server: FakeModelServer, redis_url: str
) -> None:
    environment = {**outside, "REDIS_URL": redis_url, "LLM_MAX_CONCURRENCY": str(TASKS_PER_WORKER)}
    # Long enough that both workers fill up before the first call ends.
    model_server.delay_seconds = 2.0
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        workers = [stack.enter_context(worker(environment)) for _ in range(2)]
        service = stack.enter_context(service_with(environment))
        wait_for_workers(*workers)
        asked: list[str] = []
        for number, size in enumerate(BATCHES):
            images = [service.upload(64 + IMAGES_PER_BATCH * number + index) for index in range(IMAGES_PER_BATCH)]
            batch = pool.map(lambda each, images=images: service.ask(images[each % len(images)]), range(size))
            # At first more than one worker may run: so the one that is killed runs some.
            service.wait_for_more("processing", than=TASKS_PER_WORKER if number == 0 else 0)
            model_server.delay_seconds = 0.3
            killed = workers.pop(0)
            killed.send_signal(signal.SIGKILL)
            assert killed.wait(120) == 128 + signal.SIGKILL
            if number == 0:
                workers.append(stack.enter_context(worker(environment)))
            asked += batch
        service.wait_for_completed(sum(BATCHES))
        tasks = service.all_of("/images/inference/tasks")
        results = service.all_of("/images/inference/")
    assert sorted(task["task_id"] for task in tasks) == sorted(asked)
    assert sorted(result["task_id"] for result in results) == sorted(asked)
    assert {task["result_id"] for task in tasks} == {result["id"] for result in results}
    assert {task["status"] for task in tasks} == {"completed"}
    # Some were indeed begun more than once, but none by two at a time.
    assert max(task["attempts"] for task in tasks) in {2, 3}
    # The picture of a call that was cut off is shown to the model once more.
    assert model_server.call_count <= len(BATCHES) * (IMAGES_PER_BATCH + 8)


@pytest.mark.parametrize("database_kind", ["mysql"], indirect=True)
@pytest.mark.parametrize("killed_while", ["submitting", "running"])
def test_a_batch_outlives_the_worker_that_has_submitted_it(
    outside: dict[str, str], model_server: FakeModelServer, killed_while: str
) -> None:
    """The one is killed before it hears that the batch is there: the next one asks the provider for it."""
    provider, url, model = {
        "submitting": ("openai", model_server.openai_url, "gpt-6-luna"),
        "running": ("claude", model_server.anthropic_url, "claude-haiku-5-5"),
    }[killed_while]
    batches = model_server.batches
    batches.delay_seconds = 600 if killed_while == "submitting" else 0
    environment = {**outside, "LLM_PROVIDER": provider, "LLM_BASE_URL": url, "LLM_MODEL": model}
    environment |= {"BATCH_WAIT_SECONDS": "0", "COST_PER_API_CALL": "0.01"}
    with ExitStack() as stack:
        first = stack.enter_context(worker(environment))
        service = stack.enter_context(service_with(environment))
        wait_for_workers(first)
        images = [service.upload(64 + number) for number in range(IMAGES_PER_BATCH)]
        body = {"image_ids": images, "model_name": "default", "priority": "low"}
        job = service.client.post("/api/v1/jobs", json=body).raise_for_status()
        path = f"/api/v1/jobs/{job.json()['data']['job_id']}"
        wait_until(lambda: bool(batches.made), "a batch")
        if killed_while == "running":
            wait_until(lambda: "is submitted as" in first.output(), "the submission to be noted")
        first.send_signal(signal.SIGKILL)
        assert first.wait(120) == 128 + signal.SIGKILL
        batches.delay_seconds = 0
        batches.end_by_themselves = True
        stack.enter_context(worker(environment))

        def data_of(path: str) -> Any:
            return service.client.get(path).raise_for_status().json()["data"]

        wait_until(lambda: data_of(path)["status"] == "finished", "the job", within_seconds=300, poll_seconds=0.2)
        assert data_of(path)["counts"]["completed"] == IMAGES_PER_BATCH
        pictures = data_of(f"{path}/images")["items"]
        (spent,) = data_of("/api/v1/stats/spending?by=model")["groups"]
    assert [picture["image_id"] for picture in pictures] == images
    assert not any(picture["result"]["from_cache"] for picture in pictures)
    # Each photo was shown to the model once, and paid once, at half the price.
    assert [len(batch.requests) for batch in batches.made] == [IMAGES_PER_BATCH]
    assert model_server.call_count == 0
    assert (spent["calls"], spent["cost"]) == (IMAGES_PER_BATCH, IMAGES_PER_BATCH * 0.005)
    assert batches.violations == []


@contextmanager
def sockets_of(service: Service) -> Iterator[list[ClientConnection]]:
    """So many that one process can hardly have them all."""
    token = service.client.headers["Authorization"].partition(" ")[2]
    address = f"{str(service.client.base_url).replace('http', 'ws', 1)}/ws/inference?token={token}"
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(address)) for _ in range(12)]
        for socket in sockets:
            assert json.loads(socket.recv(10))["event"] == "hello"
        yield sockets


def check_that_all_hear(sockets: list[ClientConnection], task_id: str) -> None:
    """Each hears of each state of the task, once and in order."""
    for socket in sockets:
        heard = []
        while "completed" not in heard:
            event = json.loads(socket.recv(30))
            assert event["task_id"] == task_id
            heard.append(event["status"])
        assert heard == ["pending", "processing", "completed"]


@pytest.mark.parametrize("database_kind", ["mysql"], indirect=True)
def test_every_socket_hears_of_a_task_that_another_process_runs(outside: dict[str, str], redis_url: str) -> None:
    """Two processes of gunicorn with sockets, and one that runs tasks."""
    port = free_port()
    environment = {**outside, "REDIS_URL": redis_url, "WEB_CONCURRENCY": "2", "APP_PORT": str(port)}
    with ExitStack() as stack:
        runner = stack.enter_context(worker(environment))
        stack.enter_context(running("gunicorn", port, environment))
        wait_for_workers(runner)
        service = Service(stack.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)))
        with sockets_of(service) as sockets:
            check_that_all_hear(sockets, service.ask(service.upload(64)))


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_processes_that_serve_and_run_tasks_may_be_killed(
    outside: dict[str, str], model_server: FakeModelServer
) -> None:
    """Several processes of gunicorn, without Redis and without workers: what is installed by default."""
    port = free_port()
    environment = {**outside, "TASK_WORKERS": "inside", "WEB_CONCURRENCY": "2", "APP_PORT": str(port)}
    with (
        running("gunicorn", port, environment) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        service = Service(client)
        with sockets_of(service) as sockets:
            before = service.ask(service.upload(63))
            check_that_all_hear(sockets, before)
        model_server.delay_seconds = 2.0
        images = [service.upload(64 + index) for index in range(24)]
        asked = [service.ask(image) for image in images]
        wait_until(lambda: model_server.concurrent > 2, "tasks that run")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        # The connection of our client is to one of them.
        client.close()
        os.kill(int(children[0]), signal.SIGKILL)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as service.client:
            service.client.headers.update(client.headers)
            model_server.delay_seconds = 0.1
            asked += [service.ask(image) for image in images]
            service.wait_for_completed(1 + len(asked))
            results = service.all_of("/images/inference/")
    assert sorted(result["task_id"] for result in results) == sorted([*asked, before])
    # What the killed process had asked, and did not live to hear.
    assert model_server.call_count <= 1 + len(images) + 4


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_worker_that_is_told_to_end_gives_back_what_it_runs(
    outside: dict[str, str], model_server: FakeModelServer
) -> None:
    with service_with(outside) as service, worker(outside) as first:
        image_id = service.upload(64)
        # Longer than a process waits for what it runs.
        model_server.delay_seconds = GRACE_SECONDS + 2
        # Without Redis, too: it looks for itself.
        task_id = service.ask(image_id)
        wait_until(lambda: model_server.concurrent > 0, "the task to run")
        assert service.task(task_id)["status"] == "processing"
        first.send_signal(signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: service.task(task_id)["status"] == "pending", "the task to be given back")
        assert time.monotonic() - began < GRACE_SECONDS + 2
        with worker(outside):
            assert first.wait(120) == 0
            assert "Traceback" not in first.output()
            wait_until(lambda: service.task(task_id)["status"] == "completed", "the next worker")
        assert service.task(task_id)["attempts"] == 1
    # The call was paid for, and its answer was kept.
    assert model_server.call_count == 1


def test_a_worker_that_cannot_start_says_why_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    with worker({**environment, "LLM_PROVIDER": "nobody"}) as process:
        assert process.wait(120) == 1
        assert "LLM_PROVIDER=nobody is unknown" in process.output()
        assert "Traceback" not in process.output()
