"""Jobs over HTTP: an album in parts, seen and cancelled by its owner only."""

from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.tasks import jobs
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import classification, filtered
from tests.fakes.model_server import FakeModelServer
from tests.support.library_api import person, upload
from tests.support.people import code
from tests.support.tasks import until

JOBS = "/api/v1/jobs"


@pytest.fixture
async def owner(service: httpx2.AsyncClient) -> dict[str, str]:
    return await person(service)


async def images_of(service: httpx2.AsyncClient, headers: dict[str, str], number: int) -> list[int]:
    uploads = [await upload(service, headers, jpeg_photo(64 + each, 64)) for each in range(number)]
    return [int(each.json()["image_id"]) for each in uploads]


async def made(service: httpx2.AsyncClient, headers: dict[str, str], **body: Any) -> Any:
    answer = await service.post(JOBS, headers=headers, json={"model_name": "default", **body})
    assert answer.status_code == 202, answer.text
    return answer.json()["data"]


async def seen(service: httpx2.AsyncClient, headers: dict[str, str], job: Any, part: str = "") -> Any:
    return (await service.get(f"{JOBS}/{job['job_id']}{part}", headers=headers)).raise_for_status().json()["data"]


async def test_an_album_is_added_in_parts_and_ends(
    service: httpx2.AsyncClient, owner: dict[str, str], model_server: FakeModelServer
) -> None:
    images = await images_of(service, owner, 3)
    job = await made(service, owner)
    assert (job["status"], job["photos"], job["progress"]) == ("empty", 0, 0)
    model_server.script(classification("foods"), filtered())
    path = f"{JOBS}/{job['job_id']}/images"
    for part in (images[:2], images[1:]):
        # The photo in both parts is asked about once.
        answer = (await service.post(path, headers=owner, json={"image_ids": part})).raise_for_status()
    assert answer.json()["data"]["photos"] == 3

    async def is_finished() -> bool:
        return bool((await seen(service, owner, job))["status"] == "finished")

    await until(is_finished, "the job to end")
    state = await seen(service, owner, job)
    assert state["counts"] == {"pending": 0, "processing": 0, "completed": 2, "failed": 1, "cancelled": 0}
    assert state["progress"] == 1
    pictures = await seen(service, owner, job, "/images?limit=2")
    assert [each["image_id"] for each in pictures["items"]] == images[:2]
    assert pictures["total"] == 3
    (failed,) = (await seen(service, owner, job, "/images?status=failed"))["items"]
    assert (failed["error"]["code"], failed["result"]) == ("model_refused", None)
    completed = (await seen(service, owner, job, "/images?status=completed"))["items"]
    assert {each["result"]["task_id"] for each in completed} == {each["task_id"] for each in completed}
    assert model_server.call_count == 3


async def test_a_cancelled_job_asks_about_no_further_photo(
    service: httpx2.AsyncClient, owner: dict[str, str], model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CANCELLED_AT_ONCE", 1)
    # No runner takes them: they wait for a batch that this provider does not have.
    monkeypatch.setattr("app.services.inference.catalogue.has_batches", lambda _: True)
    job = await made(service, owner, image_ids=await images_of(service, owner, 2), priority="low")
    assert (job["priority"], job["counts"]["pending"]) == ("low", 2)
    path = f"{JOBS}/{job['job_id']}"
    for _ in range(2):
        cancelled = (await service.delete(path, headers=owner)).raise_for_status().json()["data"]
        assert (cancelled["status"], cancelled["counts"]["cancelled"]) == ("cancelled", 2)
    refused = await service.post(f"{path}/images", headers=owner, json={"image_ids": [1]})
    assert code(refused) == (409, "job_cancelled")
    assert model_server.call_count == 0


async def test_what_is_not_there_or_too_much_is_refused(
    service: httpx2.AsyncClient, owner: dict[str, str], engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = await images_of(service, owner, 2)
    other = await person(service, "another")
    job = await made(service, owner)
    path = f"{JOBS}/{job['job_id']}"
    for method, url in (("GET", path), ("GET", f"{path}/images"), ("DELETE", path), ("GET", f"{JOBS}/none")):
        assert code(await service.request(method, url, headers=other)) == (404, "job_not_found")
    theirs = await service.post(JOBS, headers=other, json={"image_ids": images})
    assert (theirs.status_code, theirs.json()["error"]["details"]) == (404, {"missing": images})
    assert code(await service.post(JOBS, headers=owner, json={"model_name": "none"})) == (400, "unknown_model")
    assert (await service.post(JOBS, headers=owner, json={"image_ids": [1] * 1001})).status_code == 400
    assert code(await service.post(JOBS, json={})) == (401, "authentication_required")
    monkeypatch.setattr(jobs, "MAX_PHOTOS", 1)
    refused = await service.post(f"{path}/images", headers=owner, json={"image_ids": images})
    assert code(refused) == (400, "job_too_large")
    monkeypatch.setattr(jobs, "MAX_UNFINISHED_IN_JOBS", 0)
    refused = await service.post(f"{path}/images", headers=owner, json={"image_ids": images[:1]})
    assert code(refused) == (429, "too_many_tasks")


async def test_a_repeat_with_the_same_key_makes_no_second_job(
    service: httpx2.AsyncClient, owner: dict[str, str]
) -> None:
    headers = {**owner, "Idempotency-Key": "album-1"}
    body = {"image_ids": await images_of(service, owner, 1)}
    first, second = [await service.post(JOBS, headers=headers, json=body) for _ in range(2)]
    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"
