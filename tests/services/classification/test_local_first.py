"""The local model looks first: it answers what it is sure of, and what must not leave the server is sent to none."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clients.errors import ModelConfigurationError
from app.clients.local import client as local_client
from app.clients.local.network import WeightsMissing
from app.clients.local.provision import Provision
from app.clients.thresholds import Thresholds, write_thresholds
from app.config.model import DescriptionLanguage
from app.config.settings import Settings
from app.database.tables.classification import CachedImage, ModelCallLease
from app.database.tables.near_duplicates import PerceptualHash
from app.main import create_app
from app.observability import metrics
from app.services.cache.reclassification import Selection, count, what_has_changed
from app.services.classification.local_first import open_local_first
from tests.fakes.images import noisy_jpeg
from tests.fakes.model_replies import classification, failure
from tests.fakes.model_server import API_KEY, FakeModelServer, fake_model_server
from tests.support.classify import check, error_code, photo, sha256, upload
from tests.support.library_api import person
from tests.support.library_api import upload as upload_picture
from tests.support.second_model import ADDRESS_VARIABLE, KEY_VARIABLE, SecondClient
from tests.support.serving import serving
from tests.support.spending import ledger_of, spending_settings
from tests.support.thresholds import ALL_STAY, ALWAYS_SURE, LOCAL_MODEL, NONE_STAYS, prepared, seen_locally, thresholds

CASCADE = LOCAL_MODEL.replace("local/", "cascade/")
LOCAL_ONLY = LOCAL_MODEL.replace("local/", "local-only/")
HOSTED = "test-vision"
IDCARDS = frozenset({Category.IDCARD})

# Which model is asked is decided above SQL.
pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

Service = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
async def second(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeModelServer]:
    """The server of a further model."""
    async with fake_model_server() as server:
        monkeypatch.setenv(ADDRESS_VARIABLE, server.openai_url)
        monkeypatch.setenv(KEY_VARIABLE, API_KEY)
        yield server


@pytest.fixture
def service(settings: Settings, engine: AsyncEngine, second: FakeModelServer, tmp_path: Path) -> Service:
    """Runs a service with those thresholds; `model` are settings of the model, what else is given is about money."""

    @asynccontextmanager
    async def running(
        chosen: Thresholds, *, model: dict[str, Any], shares_results: bool = False, **money: Any
    ) -> AsyncIterator[httpx2.AsyncClient]:
        write_thresholds(tmp_path / "cascade.json", LOCAL_MODEL, chosen)
        values = {
            "max_retries": 0,
            "further_models": {"second": f"{SecondClient.__module__}:{SecondClient.__name__}"},
            "cascade_file": tmp_path / "cascade.json",
        }
        changed = settings.model_copy(
            update={
                "model": settings.model.model_copy(update=values | model),
                "spending": spending_settings(**money),
                "library": settings.library.model_copy(update={"shares_results": shares_results}),
            }
        )
        async with (
            serving(create_app(changed)) as url,
            httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client,
        ):
            yield client

    return running


KEEPING = {"local_only_categories": IDCARDS, "fallback_models": ("second",)}
AS_CASCADE = {"provider": "cascade", "cascade_model": "custom"}


async def entries_of(engine: AsyncEngine) -> dict[str, Any]:
    async with engine.connect() as connection:
        return {row.image_hash: row for row in await connection.execute(select(CachedImage.__table__))}


async def test_no_other_model_describes_a_photo_that_must_not_leave(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    """The local model has missed it; the other one has not, so that it is known from then on."""
    model_server.default = classification("idcard")
    spoken = {"description_language": DescriptionLanguage.AUTO}
    async with service(thresholds(), model=KEEPING | spoken) as api:
        assert (await upload(api, photo(1))).json()["model"] == HOSTED
        english = (await upload(api, photo(1), params={"lang": "en"})).json()
        assert (english["from_cache"], english["data"]["description_language"]) == (True, "zh")
        await upload(api, photo(2), params={"lang": "en"})
    assert model_server.call_count == 2
    # What it keeps here it describes itself, in both languages.
    async with service(thresholds(kept_from=ALL_STAY), model=KEEPING | spoken) as api:
        for lang in ("zh", "en"):
            answer = (await upload(api, photo(3), params={"lang": lang})).json()
            assert (answer["model"], answer["data"]["description_language"]) == (LOCAL_ONLY, lang)
    assert model_server.call_count == 2


async def rows_of(engine: AsyncEngine, table: Any) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(table.__table__))).all())


async def test_a_cascade_sends_only_what_the_local_model_is_not_sure_of(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    photos = [photo(1), photo(5), noisy_jpeg(64, 48), noisy_jpeg(320, 64)]
    seen = {
        data: max(result.response["probabilities"].values())
        for data, result in zip(photos, await seen_locally(*photos), strict=True)
    }
    by_confidence = sorted(photos, key=lambda data: -seen[data])
    sure_from = seen[by_confidence[1]]
    sure = [data for data in photos if seen[data] >= sure_from]
    unsure = [data for data in photos if data not in sure]
    async with service(thresholds(sure_from), model=AS_CASCADE) as api:
        for data in photos:
            given = (await upload(api, data)).json()
            assert (given["model"], given["from_cache"]) == (CASCADE if data in sure else HOSTED, False)
            hit = (await check(api, sha256(data))).json()
            assert (hit["cached"], hit["model"]) == (True, given["model"])
            assert (await upload(api, data)).json()["from_cache"]
        figures = (await api.get("/stats/cascade")).json()["data"]
        assert (figures["sure"], figures["kept"], figures["sent"]) == (len(sure), 0, len(unsure))
        assert (figures["calls_saved"], figures["share_saved"]) == (len(sure), 100 * len(sure) / len(photos))
        assert figures["estimated_saving"] == pytest.approx(0.01 * len(sure))
        assert figures["precision"] == {"value": 0.97, "low": 0.9575, "high": 0.9789}
        assert figures["expected_mistakes"] == pytest.approx(0.03 * len(sure), abs=0.05)
    assert [call.jpeg for call in model_server.calls] == [prepared(data).jpeg for data in photos if data in unsure]
    entries = await entries_of(engine)
    assert {sha256(data): entries[sha256(data)].cost_micros for data in sure} == dict.fromkeys(map(sha256, sure), 0)
    assert entries[sha256(sure[0])].model_response["probabilities"].keys() == set(Category)
    # What the local model has answered is in no bill.
    assert [(row.model, row.cost_micros > 0) for row in await ledger_of(engine)] == [(HOSTED, True)] * len(unsure)
    assert await rows_of(engine, ModelCallLease) == []


async def test_a_budget_that_is_used_up_leaves_what_the_local_model_is_sure_of(
    service: Service, model_server: FakeModelServer
) -> None:
    nothing = {"daily_budget": Decimal("0.001")}
    async with service(thresholds(ALWAYS_SURE), model=AS_CASCADE, **nothing) as api:
        assert (await upload(api, photo(1))).json()["model"] == CASCADE
    async with service(thresholds(), model=AS_CASCADE, **nothing) as api:
        refused = await upload(api, photo(2))
        assert (refused.status_code, error_code(refused)) == (429, "budget_exhausted")
        assert int(refused.headers["Retry-After"]) > 0
    async with service(thresholds(), model=AS_CASCADE | {"fallback_models": ("local",)}, **nothing) as api:
        assert (await upload(api, photo(2))).json()["model"] == LOCAL_MODEL
    async with service(thresholds(), model=AS_CASCADE, daily_budget=Decimal("0.015")) as api:
        assert (await upload(api, photo(3))).json()["model"] == HOSTED
        assert error_code(await upload(api, photo(4))) == "budget_exhausted"
    assert model_server.call_count == 1


async def test_while_the_other_model_is_away_only_a_fallback_answers_what_is_unsure(
    service: Service, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = failure(503)
    async with service(thresholds(), model=AS_CASCADE) as api:
        assert error_code(await upload(api, photo(1))) == "model_unreachable"
    async with service(thresholds(), model=AS_CASCADE | {"fallback_models": ("local",)}) as api:
        assert (await upload(api, photo(1))).json()["model"] == LOCAL_MODEL
        # Provisional: the other model is asked when it is back.
        assert not (await check(api, sha256(photo(1)))).json()["cached"]
        model_server.default = classification("foods")
        assert (await upload(api, photo(1))).json()["model"] == HOSTED
    assert second.call_count == 0


async def test_sure_answers_outlive_a_change_of_the_provider_and_provisional_ones_do_not(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    sure, seen_before = photo(1), photo(2)
    async with service(thresholds(), model={"provider": "local"}) as api:
        assert (await upload(api, seen_before)).json()["model"] == LOCAL_MODEL
    async with service(thresholds(ALWAYS_SURE), model=AS_CASCADE) as api:
        assert (await upload(api, sure)).json()["model"] == CASCADE
        assert not (await check(api, sha256(seen_before))).json()["cached"]
        again = (await upload(api, seen_before)).json()
        assert (again["model"], again["from_cache"]) == (CASCADE, False)
    for provider in ("custom", "local"):
        async with service(thresholds(), model={"provider": provider}) as api:
            hit = (await check(api, sha256(sure))).json()
            assert (hit["cached"], hit["model"]) == (True, CASCADE)
    assert model_server.call_count == 0
    # They are no reason to ask again, but an operator may name them.
    assert await what_has_changed(engine, HOSTED, settings_language()) is None
    assert (await count(engine, Selection(HOSTED))).total() == 0
    assert (await count(engine, Selection(HOSTED, made_by=CASCADE))).total() == 2


def settings_language() -> Any:
    return Settings().model.description_language


async def test_what_must_not_leave_the_server_is_sent_to_no_model(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    """By no way there is: uploads, batches, a fallback, the library with the service's model or another one."""
    model_server.default = failure(503)
    everything = thresholds(kept_from={each: ALL_STAY if each in IDCARDS else NONE_STAYS for each in Category})
    async with service(everything, model=KEEPING) as api:
        assert (await upload(api, photo(1))).json()["model"] == LOCAL_ONLY
        assert (await check(api, sha256(photo(1)))).json()["cached"]
        files = [("image", (name, data, "image/jpeg")) for name, data in (("2", photo(2)), ("3", noisy_jpeg(64, 48)))]
        batch = (await api.post("/classify/batch", files=files)).json()
        assert batch["success"], batch
        async with httpx2.AsyncClient(base_url=api.base_url.copy_with(path="/"), timeout=120) as site:
            owner = await person(site)
            for name in ("default", "second"):
                image_id = (await upload_picture(site, owner)).json()["id"]
                question = {"image_id": image_id, "model_name": name}
                given = (await site.post("/images/inference", headers=owner, json=question)).json()
                assert given["model"] == LOCAL_ONLY, given
    assert [*model_server.calls, *second.calls] == []
    assert {row.model_used for row in (await entries_of(engine)).values()} == {LOCAL_ONLY}
    assert len(await entries_of(engine)) == 3
    assert await rows_of(engine, PerceptualHash) == []
    assert await ledger_of(engine) == await rows_of(engine, ModelCallLease) == []


async def test_what_may_leave_goes_to_the_service_s_model(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    async with service(thresholds(ALWAYS_SURE), model={"local_only_categories": IDCARDS}) as api:
        # Sure or not: without a cascade the local model only keeps.
        assert (await upload(api, photo(1))).json()["model"] == HOSTED
    both = AS_CASCADE | {"local_only_categories": IDCARDS}
    async with service(thresholds(ALWAYS_SURE, kept_from=ALL_STAY), model=both) as api:
        assert (await upload(api, photo(2))).json()["model"] == LOCAL_ONLY
    async with (
        service(thresholds(ALWAYS_SURE), model=both, shares_results=True) as api,
        httpx2.AsyncClient(base_url=api.base_url.copy_with(path="/"), timeout=120) as site,
    ):
        owner = await person(site)
        image_id = (await upload_picture(site, owner)).json()["id"]
        questions = [{"image_id": image_id, "model_name": name} for name in ("default", "second")]
        answers = [
            (await site.post("/images/inference", headers=owner, json=question)).json()["model"]
            for question in questions
        ]
    # A model that a user has named is not replaced by one that is only sure.
    assert answers == [CASCADE, second.models[0]]
    assert (model_server.call_count, second.call_count) == (1, 1)


async def test_where_it_is_the_service_s_model_it_looks_once(
    service: Service, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    before = answers_of_local()
    async with service(thresholds(), model=KEEPING | {"provider": "local"}) as api:
        assert (await upload(api, photo(1))).json()["model"] == LOCAL_MODEL
    async with service(thresholds(kept_from=ALL_STAY), model=KEEPING | {"provider": "local"}) as api:
        assert (await upload(api, photo(2))).json()["model"] == LOCAL_ONLY
    metrics.flush()
    assert answers_of_local() - before == 2
    assert [*model_server.calls, *second.calls] == []


def answers_of_local() -> float:
    samples = [sample for metric in metrics.MODEL_CALLS.collect() for sample in metric.samples]
    return sum(
        each.value for each in samples if each.labels.get("model") == LOCAL_MODEL and each.name.endswith("_total")
    )


@pytest.mark.parametrize("model", [AS_CASCADE, KEEPING, KEEPING | {"provider": "local"}])
async def test_what_the_local_model_cannot_look_at_is_not_sent(
    model: dict[str, Any],
    service: Service,
    model_server: FakeModelServer,
    second: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise WeightsMissing

    async def never(_: Provision) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(local_client, "load_networks", missing)
    monkeypatch.setattr(Provision, "networks", never)
    async with service(thresholds(), model=model) as api:
        answer = await upload(api, photo(1))
        assert (answer.status_code, error_code(answer)) == (503, "model_preparing")
        health = (await api.get("/health")).json()
        assert health["status"] == "degraded", health
    assert [*model_server.calls, *second.calls] == []


async def test_a_service_without_fitting_thresholds_does_not_start(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "thresholds.json"
    cascade = settings.model.model_copy(update=AS_CASCADE | {"cascade_file": file, "cascade_target_precision": 0.98})
    kept = settings.model.model_copy(update={"cascade_file": file, "local_only_categories": IDCARDS})
    other = local_client.LocalClient(settings.model)
    write_thresholds(file, LOCAL_MODEL, thresholds(target=0.97))
    with pytest.raises(ModelConfigurationError, match=r"CASCADE_TARGET_PRECISION=0\.98.*evaluate FOLDER --cascade"):
        async with open_local_first(cascade, other):
            pass
    file.write_text(json.dumps({"models": {LOCAL_MODEL: {"categories": {}}}}), encoding="utf-8")
    for wrong in (cascade, kept):
        with pytest.raises(ModelConfigurationError, match=r"thresholds\.json has wrong values"):
            async with open_local_first(wrong, other):
                pass
    file.write_text("no JSON", encoding="utf-8")
    with pytest.raises(ModelConfigurationError, match="cannot be used"):
        async with open_local_first(kept, other):
            pass


async def test_another_head_needs_thresholds_of_its_own(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_client.LocalClient, "default_model", "local/efficientnet-lite2/of-another")
    kept = settings.model.model_copy(update={"local_only_categories": IDCARDS, "cascade_file": tmp_path / "none.json"})
    other = local_client.LocalClient(settings.model)
    with pytest.raises(ModelConfigurationError, match="no thresholds for local/efficientnet-lite2/of-another"):
        async with open_local_first(kept, other):
            pass
