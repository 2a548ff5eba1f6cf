"""Descriptions in the language of each request, over HTTP: what is asked, paid, kept and forgotten."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.model import DescriptionLanguage
from app.config.settings import Settings
from app.database.tables.classification import CacheDescription, CachedImage, ModelCallLease
from app.main import create_app
from app.services.cache.reclassification import Selection, mark
from tests.fakes.model_replies import classification, failure, refusal
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import MISS, check, error_code, photo, sha256, upload
from tests.support.keys import until
from tests.support.ledgers import check_ledgers_agree
from tests.support.pictures import jpeg, scene
from tests.support.serving import serving
from tests.support.spending import ledger_of, spending_settings

CHINESE, ENGLISH = {"Accept-Language": "zh-CN,zh;q=0.9"}, {"Accept-Language": "en-US,en;q=0.9"}
CAT, KATZE = "A cat on a sofa", "沙发上的一只猫"
IN_CHINESE, IN_ENGLISH = classification(description=KATZE), classification(description=CAT)
KEY = "an-admin-key-for-tests"
ADMIN = {"Authorization": f"Bearer {KEY}"}
ON_ONE_KIND = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

Service = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def service(settings: Settings, engine: AsyncEngine) -> Service:
    """Runs a service whose language is that of each request; what is given are settings of its model."""

    @asynccontextmanager
    async def running(
        language: str = "auto", *, zone: str = "Asia/Shanghai", money: Any = None, **model: Any
    ) -> AsyncIterator[httpx2.AsyncClient]:
        values = {"description_language": DescriptionLanguage(language), "max_retries": 0, **model}
        changed = settings.model_copy(
            update={
                "model": settings.model.model_copy(update=values),
                "statistics": settings.statistics.model_copy(update={"timezone": ZoneInfo(zone)}),
                "cache": settings.cache.model_copy(update={"admin_api_key": SecretStr(KEY)}),
                "spending": spending_settings(**(money or {})),
            }
        )
        async with (
            serving(create_app(changed)) as url,
            httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client,
        ):
            yield client

    return running


def said(answer: httpx2.Response) -> tuple[str | None, str | None]:
    data = answer.json()["data"]
    return data["description"], data.get("description_language")


def asked_in(server: FakeModelServer) -> list[str]:
    """The languages of all calls, in their order."""
    texts = [str(call.body["messages"][0]["content"]) for call in server.calls]
    return ["zh" if "in Simplified Chinese" in text else "en" for text in texts]


async def further(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(CacheDescription.__table__))).all())


async def test_a_known_photo_is_described_once_in_each_language(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.script(IN_CHINESE, IN_ENGLISH)
    image = photo(1)
    async with service() as api:
        first = await upload(api, image)
        assert (said(first), first.json()["from_cache"]) == ((KATZE, "zh"), False)
        # A look-up sends no photo: it is a hit with what there is.
        assert said(await check(api, sha256(image), headers=ENGLISH)) == (KATZE, "zh")
        second = await upload(api, image, headers=ENGLISH)
        assert (said(second), second.json()["from_cache"]) == ((CAT, "en"), False)
        assert second.json()["model"] == first.json()["model"]
        for _ in range(2):
            assert said(await upload(api, image, headers=ENGLISH)) == (CAT, "en")
            assert said(await upload(api, image)) == (KATZE, "zh")
            assert said(await check(api, sha256(image), headers=ENGLISH)) == (CAT, "en")
            assert said(await check(api, sha256(image), params={"lang": "en"})) == (CAT, "en")
            many = await api.post("/classify/check-cache/batch?lang=en", json={"image_hashes": [sha256(image)]})
            assert many.json()["results"][0]["data"]["description"] == CAT
            several = await api.post("/classify/batch?lang=en", files={"image": ("a.jpg", image, "image/jpeg")})
            assert several.json()["results"][0]["data"]["description"] == CAT
    assert asked_in(model_server) == ["zh", "en"]
    assert [row.cost_micros for row in await ledger_of(engine)] == [10_000, 10_000]
    (row,) = await further(engine)
    assert (row.language, row.description, row.model_used, row.cost_micros) == ("en", CAT, "test-vision", 10_000)
    async with engine.connect() as connection:
        assert (await connection.execute(select(ModelCallLease.image_hash))).all() == []
    # Those who asked the model count as those who did not find it in the cache.
    await check_ledgers_agree(engine)


async def test_simultaneous_uploads_share_the_call(service: Service, model_server: FakeModelServer) -> None:
    image = photo(1)
    async with service() as api:
        await upload(api, image)
        model_server.script(IN_ENGLISH.delayed(0.3))
        answers = await asyncio.gather(*[upload(api, image, headers=ENGLISH) for _ in range(5)])
    assert [said(each) for each in answers] == [(CAT, "en")] * 5
    assert model_server.call_count == 2


async def test_instances_share_the_call(service: Service, engine: AsyncEngine, model_server: FakeModelServer) -> None:
    image = photo(1)
    async with service() as one, service() as other:
        await upload(one, image)
        model_server.script(IN_ENGLISH.delayed(0.3))
        answers = await asyncio.gather(*[upload(each, image, headers=ENGLISH) for each in (one, other, one, other)])
        assert [said(each) for each in answers] == [(CAT, "en")] * 4
        assert sorted(each.json()["from_cache"] for each in answers) == [False, True, True, True]
    assert model_server.call_count == 2
    assert len(await further(engine)) == 1


@ON_ONE_KIND
async def test_the_zone_decides_for_who_says_nothing(service: Service, model_server: FakeModelServer) -> None:
    async with service(zone="Europe/Berlin") as api:
        await upload(api, photo(1))
        await upload(api, photo(2), params={"lang": "zh"}, headers=ENGLISH)
    assert asked_in(model_server) == ["en", "zh"]


@ON_ONE_KIND
async def test_one_language_is_that_of_all(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.default = IN_ENGLISH
    image = photo(1)
    async with service("en") as api:
        assert said(await upload(api, image, headers=CHINESE)) == (CAT, "en")
        assert said(await upload(api, image, params={"lang": "zh"})) == (CAT, "en")
        assert said(await check(api, sha256(image), params={"lang": "zh"})) == (CAT, "en")
    assert asked_in(model_server) == ["en"]
    # What was asked for in another language answers with what it has.
    async with service("zh") as api:
        assert said(await upload(api, image)) == (CAT, "en")
    assert model_server.call_count == 1
    assert await further(engine) == []


@ON_ONE_KIND
async def test_an_unknown_language_is_an_error(service: Service, model_server: FakeModelServer) -> None:
    async with service() as api:
        for answer in (
            await upload(api, photo(1), params={"lang": "fr"}),
            await check(api, sha256(photo(1)), params={"lang": "en-US"}),
        ):
            assert (answer.status_code, error_code(answer)) == (400, "invalid_request")
    assert model_server.call_count == 0


@ON_ONE_KIND
async def test_whatever_goes_wrong_the_photo_is_answered(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.default = IN_CHINESE
    image = photo(1)
    async with service() as api:
        await upload(api, image)
        model_server.script(failure(500))
        for _ in range(2):
            # The second one is answered in Chinese by the model: that is what it was asked for all the same.
            answer = await upload(api, image, headers=ENGLISH)
            assert answer.status_code == 200
        assert (said(answer), model_server.call_count) == ((KATZE, "en"), 3)
        # Refused, or taken for something else: there is none in this language, and it is not asked for again.
        for seed, reply in ((2, refusal()), (3, classification("foods", description="A soup"))):
            await upload(api, photo(seed))
            model_server.script(reply)
            before = model_server.call_count
            for _ in range(2):
                assert said(await upload(api, photo(seed), headers=ENGLISH)) == (KATZE, "zh")
            assert model_server.call_count == before + 1
    assert sorted(str(row.description) for row in await further(engine)) == ["None", "None", KATZE]
    assert len(await ledger_of(engine)) == model_server.call_count


@ON_ONE_KIND
async def test_without_money_it_is_answered_with_what_there_is(service: Service, model_server: FakeModelServer) -> None:
    model_server.default = IN_CHINESE
    async with service(money={"daily_budget": "0.01"}) as api:
        await upload(api, photo(1))
        assert said(await upload(api, photo(1), headers=ENGLISH)) == (KATZE, "zh")
    assert model_server.call_count == 1


@ON_ONE_KIND
async def test_a_correction_takes_the_descriptions_of_the_wrong_category_along(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.script(IN_CHINESE, IN_ENGLISH)
    image = photo(1)
    async with service() as api:
        await upload(api, image)
        await upload(api, image, headers=ENGLISH)
        path = f"/cache/{sha256(image)}"
        corrected = await api.put(path, json={"category": "foods", "description": "一碗面"}, headers=ADMIN)
        assert corrected.status_code == 200
        # People's words are no model's to translate.
        answer = await upload(api, image, headers=ENGLISH)
        assert (said(answer), answer.json()["data"]["category"]) == (("一碗面", "zh"), "foods")
        assert (await further(engine), model_server.call_count) == ([], 2)


async def test_an_entry_that_is_asked_again_loses_its_further_descriptions(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.script(IN_CHINESE, IN_ENGLISH, classification("foods", description="一碗面"))
    image = photo(1)
    async with service() as api:
        await upload(api, image)
        await upload(api, image, headers=ENGLISH)
        await mark(engine, Selection("newer"), lambda _: None)

        async def is_missed() -> bool:
            return bool((await check(api, sha256(image))).json() == MISS)

        await until(is_missed)
        assert said(await upload(api, image)) == ("一碗面", "zh")
        assert said(await check(api, sha256(image), headers=ENGLISH)) == ("一碗面", "zh")
    assert await further(engine) == []


@ON_ONE_KIND
async def test_a_removed_entry_leaves_no_description(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.script(IN_CHINESE, IN_ENGLISH)
    async with service() as api:
        await upload(api, photo(1))
        await upload(api, photo(1), headers=ENGLISH)
        assert len(await further(engine)) == 1
        assert (await api.delete(f"/cache/{sha256(photo(1))}", headers=ADMIN)).status_code == 200
    assert await further(engine) == []


async def test_a_similar_photo_has_the_descriptions_of_its_original(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    first, before, after = jpeg(scene(1)), jpeg(scene(1), quality=70), jpeg(scene(1), quality=60)
    model_server.script(IN_CHINESE, IN_ENGLISH)
    async with service() as api:
        await upload(api, first)
        assert (await upload(api, before, headers=ENGLISH)).json()["match"] == "similar"
        assert said(await upload(api, first, headers=ENGLISH)) == (CAT, "en")
        assert said(await upload(api, after, headers=ENGLISH)) == (CAT, "en")
        for image in (first, before, after):
            assert said(await check(api, sha256(image), headers=ENGLISH)) == (CAT, "en")
            assert said(await check(api, sha256(image), headers=CHINESE)) == (KATZE, "zh")
    assert model_server.call_count == 2
    assert sorted(row.cost_micros for row in await further(engine)) == [0, 0, 10_000]


@ON_ONE_KIND
async def test_entries_that_are_older_than_languages_are_told_by_their_characters(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.script(IN_CHINESE, IN_ENGLISH)
    async with service() as api:
        await upload(api, photo(1))
    async with engine.begin() as connection:
        await connection.execute(update(CachedImage).values(language=None))
    async with service() as api:
        assert said(await upload(api, photo(1))) == (KATZE, "zh")
        assert model_server.call_count == 1
        assert said(await upload(api, photo(1), headers=ENGLISH)) == (CAT, "en")
    assert asked_in(model_server) == ["zh", "en"]


async def test_the_local_model_has_both_languages_at_once(service: Service, engine: AsyncEngine) -> None:
    async with service(provider="local") as api:
        chinese = await upload(api, photo(1), headers=CHINESE)
        english = await upload(api, photo(1), headers=ENGLISH)
        assert [said(each)[1] for each in (chinese, english)] == ["zh", "en"]
        assert english.json()["from_cache"]
        assert said(english)[0].startswith("The local model")  # type: ignore[union-attr]
        assert said(await check(api, sha256(photo(1)), headers=ENGLISH)) == said(english)
    assert [row.language for row in await further(engine)] == ["en"]


@ON_ONE_KIND
async def test_a_key_belongs_to_a_request_in_one_language(service: Service, model_server: FakeModelServer) -> None:
    key = {"Idempotency-Key": "one"}
    async with service() as api:
        first = await upload(api, photo(1), headers=key)
        again = await upload(api, photo(1), headers=key, params={"lang": "zh"})
        assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
        assert error_code(await upload(api, photo(1), headers=key | ENGLISH)) == "idempotency_key_reused"
    async with service("zh") as api:
        assert (await upload(api, photo(2), headers={"Idempotency-Key": "two"})).status_code == 200
        other = await upload(api, photo(2), headers={"Idempotency-Key": "two"} | ENGLISH)
        assert other.headers["Idempotency-Replayed"] == "true"
