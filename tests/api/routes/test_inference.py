"""Inference over HTTP: one call per picture and model for all requests, and results that only their owner sees."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.tables.classification import CachedImage
from app.database.tables.request_log import RequestLog
from app.main import create_app
from tests.fakes.counted_model import CountedModel
from tests.fakes.images import RED, jpeg_photo, png_photo
from tests.fakes.model_replies import CATEGORY, CONFIDENCE, DESCRIPTION, refusal
from tests.fakes.model_server import FakeModelServer
from tests.support.library_api import files_of, person, upload
from tests.support.people import code
from tests.support.serving import serving

PATH = "/images/inference"
JPEG = jpeg_photo()
MODELS = {name: f"tests.fakes.counted_model:{name}" for name in ("CountedModel", "BrokenModel")} | {
    "missing": "no.such.module:Model"
}

Headers = dict[str, str]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The usual ones, with further models, and results that all share (the default: test_private_results.py)."""
    model = settings.model.model_copy(update={"further_models": MODELS})
    library = settings.library.model_copy(update={"shares_results": True})
    return settings.model_copy(update={"model": model, "library": library})


@pytest.fixture(autouse=True)
def _counted() -> Iterator[None]:
    CountedModel.reset()
    yield
    CountedModel.reset()


@pytest.fixture
async def owner(service: httpx2.AsyncClient) -> Headers:
    return await person(service)


async def image_of(service: httpx2.AsyncClient, headers: Headers, data: bytes = JPEG) -> int:
    answer = await upload(service, headers, data)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def ask(service: httpx2.AsyncClient, headers: Headers, image_id: int, name: str | None = None) -> httpx2.Response:
    body: dict[str, Any] = {"image_id": image_id} | ({} if name is None else {"model_name": name})
    return await service.post(PATH, headers=headers, json=body)


async def results(service: httpx2.AsyncClient, headers: Headers, **query: int) -> dict[str, Any]:
    answer = await service.get(f"{PATH}/", headers=headers, params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def rows(engine: AsyncEngine, *columns: Any) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(*columns))).all())


async def counted_until(calls: int) -> None:
    async with asyncio.timeout(120):
        while CountedModel.calls < calls:  # noqa: ASYNC110 - it counts in a thread
            await asyncio.sleep(0.01)


# ----- the service's model


async def test_the_services_model_answers_through_the_shared_cache(
    service: httpx2.AsyncClient, owner: Headers, model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    image_id = await image_of(service, owner)
    answer = await ask(service, owner, image_id, "custom")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body == {
        "id": body["id"],
        "result_id": body["id"],
        "image_id": image_id,
        "task_id": None,
        "model_name": "custom",
        "model": "test-vision",
        "category": CATEGORY,
        "category_name": {"chinese": "宠物萌照", "english": "Pet Photos"},
        "confidence": CONFIDENCE,
        "description": DESCRIPTION,
        "description_language": "zh",
        "from_cache": False,
        "processing_time_ms": body["processing_time_ms"],
        "request_id": answer.headers["X-Request-ID"],
        "created_at": body["created_at"],
    }
    assert body["created_at"].endswith("Z")
    assert (await service.get(f"{PATH}/{body['id']}", headers=owner)).json() == body

    # The same photo from the other side, and again from this one, costs nothing.
    classified = await service.post("/api/v1/classify", files={"image": ("x.jpg", JPEG, "image/jpeg")})
    assert classified.json()["from_cache"] is True
    again = (await ask(service, owner, image_id, "default")).json()
    assert (again["from_cache"], again["model"], again["model_name"]) == (True, "test-vision", "default")
    assert again["id"] > body["id"]
    assert model_server.call_count == 1
    # 1 for the call itself.
    assert await rows(engine, CachedImage.hit_count) == [(3,)]
    user_id = f"account:{(await service.get('/users/me', headers=owner)).json()['id']}"
    logged = await rows(engine, RequestLog.user_id, RequestLog.from_cache)
    assert sorted(logged, key=str) == sorted([(user_id, 0), (None, 1), (user_id, 1)], key=str)


async def test_who_is_asked_about_a_known_photo_is_who_answered_then(
    service: httpx2.AsyncClient, owner: Headers, settings: Settings, engine: AsyncEngine
) -> None:
    image_id = await image_of(service, owner)
    await ask(service, owner, image_id, "default")
    async with engine.begin() as connection:
        await connection.execute(update(CachedImage).values(model_used="manual"))
    # A process that does not have the entry in its memory.
    async with serving(create_app(settings)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as other:
        assert (await ask(other, owner, image_id, "default")).json()["model"] == "manual"


async def test_a_model_that_refuses(
    service: httpx2.AsyncClient, owner: Headers, model_server: FakeModelServer, engine: AsyncEngine
) -> None:
    model_server.script(refusal())
    answer = await ask(service, owner, await image_of(service, owner), "custom")
    assert code(answer) == (502, "model_refused")
    assert (await results(service, owner))["total"] == 0
    assert await rows(engine, RequestLog.id) == []


# ----- other models


async def test_dummy_is_the_model_of_the_service(
    service: httpx2.AsyncClient, owner: Headers, model_server: FakeModelServer
) -> None:
    image_id = await image_of(service, owner)
    body = (await ask(service, owner, image_id)).json()
    assert (body["model_name"], body["model"], model_server.call_count) == ("dummy", "test-vision", 1)
    listed = {item["name"]: item for item in (await service.get("/models")).json()["items"]}
    assert listed["dummy"] == {
        "name": "dummy",
        "provider": "custom",
        "model": "test-vision",
        "is_default": True,
        "alias_of": "custom",
        "description": listed["dummy"]["description"],
    }


async def test_the_local_model_is_chosen_where_the_operator_allows_it(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model = settings.model.model_copy(update={"local_model": True})
    async with (
        serving(create_app(settings.model_copy(update={"model": model}))) as url,
        httpx2.AsyncClient(base_url=url, timeout=120) as service,
    ):
        listed = {item["name"]: item for item in (await service.get("/models")).json()["items"]}
        # Not loaded, because no request has asked for it.
        assert listed["local"]["model"] is None
        owner = await person(service)
        image_id = await image_of(service, owner)
        body = (await ask(service, owner, image_id, "local")).json()
        assert body["model"].startswith("local/")
        assert body["from_cache"] is False
        again = (await ask(service, owner, image_id, "local")).json()
        assert (again["from_cache"], again["confidence"]) == (True, body["confidence"])
        # A demo never answers for the service's model.
        assert model_server.call_count == 0
        assert await rows(engine, CachedImage.id) == []


async def test_a_stranger_loads_no_local_model(service: httpx2.AsyncClient, owner: Headers) -> None:
    answer = await ask(service, owner, await image_of(service, owner), "local")
    assert code(answer) == (400, "unknown_model")
    names = [item["name"] for item in (await service.get("/models")).json()["items"]]
    assert "local" not in names


async def test_nobody_pays_twice_for_another_model(
    service: httpx2.AsyncClient, owner: Headers, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    other = await person(service, "other")
    image_id = await image_of(service, owner)
    first = (await ask(service, owner, image_id, "CountedModel")).json()
    assert (first["model"], first["category"], first["confidence"]) == ("counted/1", "pets", 0.875)
    assert (first["description"], first["from_cache"]) == ("640 pixels wide", False)
    second = (await ask(service, other, await image_of(service, other), "CountedModel")).json()
    assert (second["from_cache"], second["description"]) == (True, first["description"])
    assert (CountedModel.loads, CountedModel.calls, model_server.call_count) == (1, 1, 0)
    logged = await rows(engine, RequestLog.from_cache, RequestLog.category)
    assert sorted(logged) == [(0, "pets"), (1, "pets")]

    # The shared cache has not heard of it; what it counts is its own.
    await ask(service, owner, image_id, "default")
    await ask(service, owner, image_id, "CountedModel")
    assert await rows(engine, CachedImage.hit_count, CachedImage.model_used) == [(1, "test-vision")]
    figures = (await service.get("/api/v1/stats/cache-efficiency")).json()["data"]
    assert figures["total_cached_images"] == 1
    assert figures["total_hits"] == 1
    today = (await service.get("/api/v1/stats/today")).json()["data"]
    assert (today["total_requests"], today["cache_hits"]) == (4, 2)


async def test_those_who_ask_at_once_share_a_call(service: httpx2.AsyncClient, owner: Headers) -> None:
    people = [owner, await person(service, "second"), await person(service, "third")]
    images = [await image_of(service, headers) for headers in people]
    CountedModel.may_answer.clear()
    asked = [
        asyncio.create_task(ask(service, headers, image_id, "CountedModel"))
        for headers, image_id in zip(people, images, strict=True)
        for _ in range(3)
    ]
    await counted_until(1)
    CountedModel.may_answer.set()
    answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200] * 9
    assert (CountedModel.loads, CountedModel.calls) == (1, 1)
    assert sum(not answer.json()["from_cache"] for answer in answers) == 1
    assert [(await results(service, headers))["total"] for headers in people] == [3, 3, 3]


async def test_an_answer_is_kept_though_its_asker_has_gone(service: httpx2.AsyncClient, owner: Headers) -> None:
    image_id = await image_of(service, owner)
    CountedModel.may_answer.clear()
    with pytest.raises(httpx2.TimeoutException):
        await service.post(PATH, headers=owner, json={"image_id": image_id, "model_name": "CountedModel"}, timeout=0.5)
    await counted_until(1)
    CountedModel.may_answer.set()
    async with asyncio.timeout(120):
        while (await results(service, owner))["total"] == 0:  # noqa: ASYNC110 - only the service knows
            await asyncio.sleep(0.02)
    assert (await ask(service, owner, image_id, "CountedModel")).json()["from_cache"] is True


async def test_a_model_that_fails_is_asked_again(service: httpx2.AsyncClient, owner: Headers) -> None:
    image_id = await image_of(service, owner)
    CountedModel.fails = True
    assert code(await ask(service, owner, image_id, "CountedModel")) == (502, "model_error")
    CountedModel.fails = False
    assert (await ask(service, owner, image_id, "CountedModel")).status_code == 200
    assert (await results(service, owner))["total"] == 1


@pytest.mark.parametrize(("name", "expected"), [("BrokenModel", "model_unreachable"), ("missing", "model_not_found")])
async def test_a_model_that_cannot_be_loaded(
    service: httpx2.AsyncClient, owner: Headers, name: str, expected: str
) -> None:
    image_id = await image_of(service, owner)
    for _ in range(2):
        answer = await ask(service, owner, image_id, name)
        assert code(answer) == (503, expected)
        assert "/secret/path" not in answer.text
        assert "no.such.module" not in answer.text
    # The service goes on.
    assert (await ask(service, owner, image_id, "CountedModel")).status_code == 200


async def test_an_image_that_is_deleted_while_the_model_looks(service: httpx2.AsyncClient, owner: Headers) -> None:
    image_id = await image_of(service, owner)
    CountedModel.may_answer.clear()
    asked = asyncio.create_task(ask(service, owner, image_id, "CountedModel"))
    await counted_until(1)
    assert (await service.delete(f"/images/{image_id}", headers=owner)).status_code == 204
    CountedModel.may_answer.set()
    assert code(await asked) == (404, "image_not_found")
    assert (await results(service, owner))["total"] == 0


# ----- what is asked


async def test_an_unknown_model(service: httpx2.AsyncClient, owner: Headers) -> None:
    answer = await ask(service, owner, await image_of(service, owner), "resnet50")
    assert code(answer) == (400, "unknown_model")
    known = answer.json()["error"]["details"]["known"]
    assert known == ["custom", "CountedModel", "BrokenModel", "missing", "default", "dummy"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image_id": 0},
        {"image_id": -1},
        {"image_id": 2**63},
        {"image_id": 1.5},
        {"image_id": "one"},
        {"image_id": None},
        {"image_id": 1, "model_name": ""},
        {"image_id": 1, "model_name": "x" * 101},
        {"image_id": 1, "model_name": None},
        {"image_id": 1, "model_name": "../../etc/passwd"},
        {"image_id": 1, "model_name": "tests.fakes.counted_model:CountedModel"},
    ],
)
async def test_what_is_no_question(service: httpx2.AsyncClient, owner: Headers, body: Any) -> None:
    assert (await service.post(PATH, headers=owner, json=body)).status_code == 400


async def test_what_models_are_not_shown(
    service: httpx2.AsyncClient, owner: Headers, settings: Settings, engine: AsyncEngine
) -> None:
    image_id = await image_of(service, owner)
    [file] = [file for file in files_of(settings) if file.read_bytes() == JPEG]
    file.write_bytes(jpeg_photo(colour=(1, 2, 3)))
    for name in ("default", "CountedModel"):
        assert code(await ask(service, owner, image_id, name)) == (400, "corrupt_image")
    assert await rows(engine, CachedImage.id) == []
    assert CountedModel.calls == 0


# ----- what was said


async def test_results_in_pages(service: httpx2.AsyncClient, owner: Headers) -> None:
    first, second = await image_of(service, owner), await image_of(service, owner, png_photo(colour=RED))
    ids = [(await ask(service, owner, image_id, "CountedModel")).json()["id"] for image_id in (first, first, second)]
    page = await results(service, owner)
    assert page.keys() == {"items", "total", "skip", "limit"}
    assert [item["id"] for item in page["items"]] == ids[::-1]
    assert page["items"][0] == (await service.get(f"{PATH}/{ids[2]}", headers=owner)).json()
    page = await results(service, owner, skip=1, limit=1)
    assert ([item["id"] for item in page["items"]], page["total"], page["skip"], page["limit"]) == ([ids[1]], 3, 1, 1)
    page = await results(service, owner, image_id=first)
    assert ([item["id"] for item in page["items"]], page["total"]) == (ids[1::-1], 2)
    assert (await results(service, owner, skip=10**6))["items"] == []
    # The same without the slash, which the library would take for an image.
    assert (await service.get(PATH, headers=owner)).json()["total"] == 3


@pytest.mark.parametrize("query", ["skip=-1", "limit=0", "limit=101", "image_id=x", f"skip={2**63}"])
async def test_pages_that_are_none(service: httpx2.AsyncClient, owner: Headers, query: str) -> None:
    assert (await service.get(f"{PATH}/?{query}", headers=owner)).status_code == 400


async def test_results_go_with_their_image(service: httpx2.AsyncClient, owner: Headers) -> None:
    image_id = await image_of(service, owner)
    result_id = (await ask(service, owner, image_id, "CountedModel")).json()["id"]
    await service.delete(f"/images/{image_id}", headers=owner)
    assert code(await service.get(f"{PATH}/{result_id}", headers=owner)) == (404, "result_not_found")


async def test_nobody_sees_anothers(service: httpx2.AsyncClient, owner: Headers) -> None:
    image_id = await image_of(service, owner)
    result_id = (await ask(service, owner, image_id, "CountedModel")).json()["id"]
    other = await person(service, "other")
    # Word for word what is said of what there is not.
    for name in ("CountedModel", "default", "dummy"):
        theirs, unknown = await ask(service, other, image_id, name), await ask(service, other, 10**9, name)
        assert code(theirs) == code(unknown) == (404, "image_not_found")
        assert theirs.json()["error"] == unknown.json()["error"]
    assert code(await service.get(f"{PATH}/{result_id}", headers=other)) == (404, "result_not_found")
    assert (await results(service, other))["total"] == 0
    assert (await results(service, other, image_id=image_id))["total"] == 0
