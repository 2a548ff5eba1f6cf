"""What models say of a library's pictures is the account's own: no stranger who knows the hash learns it."""

import asyncio
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.tables.classification import CachedImage, ModelCallLease
from app.database.tables.inference import InferenceResult
from app.database.tables.spending import ModelCallRow
from tests.fakes.counted_model import CountedModel
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import DESCRIPTION, failure
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import MISS, check, sha256
from tests.support.classify import upload as classify
from tests.support.library_api import person, upload
from tests.support.people import code

JPEG = jpeg_photo()
HASH = sha256(JPEG)
COUNTED = {"CountedModel": "tests.fakes.counted_model:CountedModel"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The usual ones, with a further model."""
    CountedModel.reset()
    return settings.model_copy(update={"model": settings.model.model_copy(update={"further_models": COUNTED})})


async def ask(service: httpx2.AsyncClient, headers: dict[str, str], image_id: int, name: str) -> dict[str, Any]:
    answer = await service.post("/images/inference", headers=headers, json={"image_id": image_id, "model_name": name})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def picture_of(service: httpx2.AsyncClient, headers: dict[str, str]) -> int:
    return int((await upload(service, headers)).json()["id"])


async def rows(engine: AsyncEngine, *columns: Any) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(*columns))).all())


async def test_a_stranger_learns_nothing_before_and_after_a_deletion(
    service: httpx2.AsyncClient, api: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    owner = await person(service)
    image_id = await picture_of(service, owner)
    assert (await ask(service, owner, image_id, "custom"))["description"] == DESCRIPTION
    assert (await check(api, HASH)).json() == MISS
    batch = (await api.post("/classify/check-cache/batch", json={"image_hashes": [HASH]})).text
    assert DESCRIPTION not in batch
    assert await rows(engine, CachedImage.id) == []

    assert (await service.delete(f"/images/{image_id}", headers=owner)).status_code == 204
    assert (await check(api, HASH)).json() == MISS
    assert await rows(engine, InferenceResult.id) == []

    await ask(service, owner, await picture_of(service, owner), "custom")
    assert (await service.delete("/users/me", headers=owner)).status_code == 204
    assert (await check(api, HASH)).json() == MISS
    assert await rows(engine, InferenceResult.id) == []


@pytest.mark.parametrize("name", ["custom", "CountedModel"])
async def test_an_account_pays_once_and_another_one_for_itself(
    service: httpx2.AsyncClient, model_server: FakeModelServer, name: str
) -> None:
    owner, other = await person(service), await person(service, "other")
    image_id, of_other = await picture_of(service, owner), await picture_of(service, other)

    def calls() -> int:
        return model_server.call_count + CountedModel.calls

    first = await ask(service, owner, image_id, name)
    again = await ask(service, owner, image_id, name)
    assert (first["from_cache"], again["from_cache"], calls()) == (False, True, 1)
    assert (again["description"], again["model"]) == (first["description"], first["model"])
    # The other account is not told that there is a result.
    assert (await ask(service, other, of_other, name))["from_cache"] is False
    assert calls() == 2
    assert (await ask(service, other, of_other, name))["from_cache"] is True
    assert calls() == 2


async def test_the_shared_cache_answers_an_account(
    service: httpx2.AsyncClient, api: httpx2.AsyncClient, model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    await classify(api, JPEG)
    owner = await person(service)
    assert (await ask(service, owner, await picture_of(service, owner), "custom"))["from_cache"] is True
    assert model_server.call_count == 1
    assert await rows(engine, CachedImage.hit_count) == [(2,)]


async def test_those_who_ask_at_once_pay_once_for_each_account_and_once_for_strangers(
    service: httpx2.AsyncClient, api: httpx2.AsyncClient, model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    owner = await person(service)
    image_id = await picture_of(service, owner)
    inferred = await asyncio.gather(*(ask(service, owner, image_id, "custom") for _ in range(5)))
    assert sum(not answer["from_cache"] for answer in inferred) == 1
    assert model_server.call_count == 1
    asked = asyncio.create_task(ask(service, owner, image_id, "custom"))
    uploads = await asyncio.gather(*(classify(api, JPEG) for _ in range(3)))
    await asked
    assert sum(not answer.json()["from_cache"] for answer in uploads) == 1
    assert model_server.call_count == 2
    assert await rows(engine, ModelCallLease.image_hash) == []


async def test_each_call_is_in_the_ledger_once(
    service: httpx2.AsyncClient, model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    owner = await person(service)
    account_id = (await service.get("/users/me", headers=owner)).json()["id"]
    image_id = await picture_of(service, owner)
    await ask(service, owner, image_id, "custom")
    await ask(service, owner, image_id, "custom")
    row = ModelCallRow
    written = await rows(engine, row.outcome, row.account_id, row.user_id, row.number)
    assert written == [("answered", account_id, f"account:{account_id}", 0)]
    assert model_server.call_count == 1


async def test_a_failed_call_leaves_no_lease(
    service: httpx2.AsyncClient, model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    owner = await person(service)
    image_id = await picture_of(service, owner)
    model_server.script(failure(401))
    answer = await service.post("/images/inference", headers=owner, json={"image_id": image_id, "model_name": "custom"})
    assert answer.status_code >= 500, answer.text
    assert code(answer)[1].startswith("model")
    assert await rows(engine, ModelCallLease.image_hash) == []
    assert (await ask(service, owner, image_id, "custom"))["from_cache"] is False
