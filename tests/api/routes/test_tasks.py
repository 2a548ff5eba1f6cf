"""Asynchronous inference over HTTP: asked for now, done soon, seen and cancelled by its owner only."""

import asyncio
from typing import Any

import httpx2
import jwt
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings, TaskSettings
from app.main import create_app
from app.services.accounts.tokens import kept_secret_key
from app.services.tasks import claims
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import failure, filtered
from tests.fakes.model_server import FakeModelServer
from tests.support.library_api import person, upload
from tests.support.people import bearer, code, log_in
from tests.support.serving import serving
from tests.support.tasks import events_of, statuses_of, until

FINAL = {"completed", "failed", "cancelled"}


@pytest.fixture
async def owner(service: httpx2.AsyncClient) -> dict[str, str]:
    return await person(service)


async def image_of(service: httpx2.AsyncClient, headers: dict[str, str], width: int = 64) -> int:
    return int((await upload(service, headers, jpeg_photo(width, 64))).json()["image_id"])


async def ask(service: httpx2.AsyncClient, headers: dict[str, str], image_id: int, model: str = "default") -> Any:
    answer = await service.post(
        "/images/inference/async", headers=headers, json={"image_id": image_id, "model_name": model}
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


async def finished(service: httpx2.AsyncClient, headers: dict[str, str], url: str) -> Any:
    """Ask for a task until it has ended, and return it."""
    async with asyncio.timeout(120):
        while True:
            answer = await service.get(url, headers=headers)
            assert answer.status_code == 200, answer.text
            if answer.json()["status"] in FINAL:
                return answer.json()
            await asyncio.sleep(0.02)


async def asked(model_server: FakeModelServer) -> None:
    """Wait until the model is being asked."""

    async def is_asked() -> bool:
        return model_server.concurrent > 0

    await until(is_asked, "a call to the model")


async def test_a_whole_life(service: httpx2.AsyncClient, owner: dict[str, str], engine: AsyncEngine) -> None:
    image_id = await image_of(service, owner)
    made = await ask(service, owner, image_id)
    url = f"/images/inference/tasks/{made['task_id']}"
    assert made == {
        "task_id": made["task_id"],
        "status": "pending",
        "status_url": url,
        "result_url": url,
        "image_id": image_id,
        "model_name": "default",
        "priority": "normal",
        "created_at": made["created_at"],
    }
    done = await finished(service, owner, made["result_url"])
    assert done == {
        "task_id": made["task_id"],
        "status": "completed",
        "image_id": image_id,
        "model_name": "default",
        "priority": "normal",
        "job_id": None,
        "attempts": 1,
        "result_id": done["result_id"],
        "result_url": f"/images/inference/{done['result_id']}",
        "error": None,
        "created_at": made["created_at"],
        "updated_at": done["updated_at"],
    }
    result = (await service.get(done["result_url"], headers=owner)).json()
    assert (result["category"], result["task_id"]) == ("pets", made["task_id"])
    events = await events_of(engine, made["task_id"])
    assert [event["status"] for event in events] == ["pending", "processing", "completed"]
    assert events[-1] == {"event": "task", **done}
    listed = await service.get("/images/inference/tasks", headers=owner)
    assert listed.json() == {"items": [done], "total": 1, "skip": 0, "limit": 20}
    assert code(await service.delete(url, headers=owner)) == (409, "task_not_pending")


async def test_many_at_once_cost_one_call_for_a_picture(
    service: httpx2.AsyncClient, owner: dict[str, str], model_server: FakeModelServer
) -> None:
    image_id = await image_of(service, owner)
    made = await asyncio.gather(*(ask(service, owner, image_id) for _ in range(10)))
    done = await asyncio.gather(*(finished(service, owner, task["status_url"]) for task in made))
    assert {task["status"] for task in done} == {"completed"}
    assert len({task["result_id"] for task in done}) == 10
    assert model_server.call_count == 1


async def test_the_default_model_is_the_specifications(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    image_id = await image_of(service, owner)
    answer = await service.post("/images/inference/async", headers=owner, json={"image_id": image_id})
    assert answer.json()["model_name"] == "dummy"
    await finished(service, owner, answer.json()["status_url"])


async def test_bodies_that_are_none(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    ids = [{"image_id": value} for value in ("x", 0, -1, 2**63, 1.5, None)]
    names = [{"image_id": 1, "model_name": value} for value in ("", "x" * 101, None, 1)]
    for body in [{}, [], *ids, *names]:
        answer = await service.post("/images/inference/async", headers=owner, json=body)
        assert code(answer) == (400, "invalid_request"), body


async def test_what_cannot_be_run_is_refused_at_once(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    image_id = await image_of(service, owner)
    body = {"image_id": image_id, "model_name": "nobody"}
    assert code(await service.post("/images/inference/async", headers=owner, json=body)) == (400, "unknown_model")
    body = {"image_id": image_id + 1, "model_name": "default"}
    assert code(await service.post("/images/inference/async", headers=owner, json=body)) == (404, "image_not_found")
    assert (await service.get("/images/inference/tasks", headers=owner)).json()["total"] == 0


async def test_a_failing_model(
    service: httpx2.AsyncClient,
    owner: dict[str, str],
    model_server: FakeModelServer,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "BACKOFF_FIRST_SECONDS", 0.0)
    image_id = await image_of(service, owner)
    # Not retried by the model client itself.
    model_server.script(*[failure(401)] * 2)
    made = await ask(service, owner, image_id)
    assert (await finished(service, owner, made["status_url"]))["attempts"] == 3
    assert await statuses_of(engine, made["task_id"]) == ["pending", "processing"] * 3 + ["completed"]
    model_server.script(filtered())
    made = await ask(service, owner, await image_of(service, owner, 65))
    done = await finished(service, owner, made["status_url"])
    assert (done["status"], done["attempts"], done["result_url"]) == ("failed", 1, None)
    assert done["error"]["code"] == "model_refused"
    model_server.default = failure(401)
    made = await ask(service, owner, await image_of(service, owner, 66))
    done = await finished(service, owner, made["status_url"])
    assert (done["attempts"], done["error"]["code"]) == (TaskSettings().max_attempts, "model_authentication_failed")
    failed = await service.get("/images/inference/tasks", headers=owner, params={"status": "failed", "limit": 1})
    assert (failed.json()["total"], len(failed.json()["items"])) == (2, 1)


async def test_a_picture_that_is_deleted_takes_its_tasks_along(
    service: httpx2.AsyncClient, owner: dict[str, str], model_server: FakeModelServer
) -> None:
    model_server.delay_seconds = 0.3
    image_id = await image_of(service, owner)
    made = await ask(service, owner, image_id)
    await asked(model_server)
    assert (await service.delete(f"/images/{image_id}", headers=owner)).status_code == 204
    assert code(await service.get(made["status_url"], headers=owner)) == (404, "task_not_found")
    done = await ask(service, owner, await image_of(service, owner, 65))
    assert (await finished(service, owner, done["status_url"]))["status"] == "completed"


async def test_tasks_wait_for_a_service_that_is_away(settings: Settings, engine: AsyncEngine) -> None:
    outside = settings.model_copy(update={"task": TaskSettings.model_validate({"workers": "outside"})})
    async with serving(create_app(outside)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as service:
        owner = await person(service)
        image_id = await image_of(service, owner)
        made = [await ask(service, owner, image_id) for _ in range(2)]
        cancelled = await service.delete(made[1]["status_url"], headers=owner)
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert cancelled.json() == (await service.get(made[1]["status_url"], headers=owner)).json()
        assert code(await service.delete(made[1]["status_url"], headers=owner)) == (409, "task_not_pending")
    # No wake-up told of them.
    async with serving(create_app(settings)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as service:
        assert (await finished(service, owner, made[0]["status_url"]))["status"] == "completed"
        assert (await finished(service, owner, made[1]["status_url"]))["status"] == "cancelled"
    assert await statuses_of(engine, made[1]["task_id"]) == ["pending", "cancelled"]


async def test_a_service_that_ends_gives_back_what_it_runs(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.tasks.runner.GRACE_SECONDS", 0.1)
    model_server.delay_seconds = 1.0
    async with serving(create_app(settings)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as service:
        owner = await person(service)
        made = await ask(service, owner, await image_of(service, owner))
        await asked(model_server)
    assert await statuses_of(engine, made["task_id"]) == ["pending", "processing", "pending"]
    async with serving(create_app(settings)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as service:
        assert (await finished(service, owner, made["status_url"]))["attempts"] == 1
    # The call was paid for, and its answer was kept.
    assert model_server.call_count == 1


async def test_rights(service: httpx2.AsyncClient, owner: dict[str, str], settings: Settings) -> None:
    image_id = await image_of(service, owner)
    made = await ask(service, owner, image_id)
    await finished(service, owner, made["status_url"])
    other = await person(service, "other")
    gone = await person(service, "gone")
    assert (await service.delete("/users/me", headers=gone)).status_code == 204
    token = await log_in(service)
    claims = jwt.decode(token, options={"verify_signature": False})
    expired = jwt.encode(claims | {"exp": 1}, kept_secret_key(settings.data_dir), algorithm="HS256")
    strangers = {
        "authentication_required": {},
        "invalid_token": bearer(jwt.encode(claims, "", algorithm="none")),
        "token_expired": bearer(expired),
    }
    body = {"image_id": image_id, "model_name": "default"}
    routes: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/images/inference/async", {"json": body}),
        ("GET", "/images/inference/tasks", {}),
        ("GET", made["status_url"], {}),
        ("DELETE", made["status_url"], {}),
    ]
    for method, url, options in routes:
        for expected, headers in (*strangers.items(), ("invalid_token", gone)):
            assert code(await service.request(method, url, headers=headers, **options)) == (401, expected), (
                method,
                url,
            )
    assert code(await service.post("/images/inference/async", headers=other, json=body)) == (404, "image_not_found")
    assert (await service.get("/images/inference/tasks", headers=other)).json()["items"] == []
    assert code(await service.get(made["status_url"], headers=other)) == (404, "task_not_found")
    assert code(await service.delete(made["status_url"], headers=other)) == (404, "task_not_found")


async def test_ids_and_pages_that_are_none(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    for task_id in ("0" * 32, "x", "%00", "..%2f..%2fetc", "%F0%9F%98%80", "' OR 1=1 --", "%ff"):
        for method in ("GET", "DELETE"):
            answer = await service.request(method, f"/images/inference/tasks/{task_id}", headers=owner)
            assert answer.status_code == 404, answer.text
    for query in ("skip=-1", "limit=0", "limit=101", "status=done", "skip=x", f"skip={2**63}"):
        assert (await service.get(f"/images/inference/tasks?{query}", headers=owner)).status_code == 400
