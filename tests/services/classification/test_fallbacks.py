"""When a model cannot answer for now, the next one is asked, and answer, log, ledger and cache say which it was."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import PreparedPhoto
from app.clients.errors import ModelConfigurationError, ModelTimeout
from app.clients.metering import CallMeter
from app.clients.registry import create_model_client
from app.config.model import ModelSettings
from app.config.settings import Environment, Settings
from app.database.tables.classification import CachedImage, ModelCallLease
from app.database.tables.request_log import RequestLog
from app.database.tables.spending import BudgetUse
from app.main import create_app
from app.observability import metrics
from app.services.classification.fallbacks import Candidate, Role, ask_in_turn, seconds_kept_for
from app.services.spending.lifespan import open_spending
from tests.fakes.model_replies import Reply, answer, dropped, failure, raw, refusal
from tests.fakes.model_server import API_KEY, FakeModelServer, fake_model_server
from tests.support.classify import check, error_code, photo, sha256, upload
from tests.support.library_api import person
from tests.support.library_api import upload as upload_picture
from tests.support.model_settings import model_settings
from tests.support.second_model import ADDRESS_VARIABLE, KEY_VARIABLE, MODEL, FreeClient, SecondClient
from tests.support.serving import serving
from tests.support.spending import ledger_of, spending_settings
from tests.support.spools import no_spool

FIRST = "test-vision"
TIMEOUT_SECONDS = 2.0
SLOW = Reply(delay_seconds=30)

# The SQL is that of limits and leases, which are tested on every kind.
ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

Service = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
async def second(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeModelServer]:
    """The server of the second model."""
    async with fake_model_server() as server:
        monkeypatch.setenv(ADDRESS_VARIABLE, server.openai_url)
        monkeypatch.setenv(KEY_VARIABLE, API_KEY)
        yield server


@pytest.fixture
def service(settings: Settings, engine: AsyncEngine, second: FakeModelServer) -> Service:
    """Runs a service whose models try once; `models` are its fallbacks, what else is given is about money."""

    @asynccontextmanager
    async def running(
        *models: str,
        provider: str = "custom",
        timeout_seconds: float = 60.0,
        on_refusal: bool = False,
        **money: Any,
    ) -> AsyncIterator[httpx2.AsyncClient]:
        values = {
            "provider": provider,
            "max_retries": 0,
            "timeout_seconds": timeout_seconds,
            "further_models": {"second": f"{SecondClient.__module__}:{SecondClient.__name__}"},
            "fallback_models": models or ("second",),
            "falls_back_on_refusal": on_refusal,
        }
        changed = settings.model_copy(
            update={"model": settings.model.model_copy(update=values), "spending": spending_settings(**money)}
        )
        async with (
            serving(create_app(changed)) as url,
            httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client,
        ):
            yield client

    return running


async def rows_of(engine: AsyncEngine, table: Any) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(table.__table__))).all())


@ON_SQLITE
@pytest.mark.parametrize(
    "reply",
    [
        failure(429, "rate_limit_exceeded", retry_after="0"),
        failure(429, "insufficient_quota", "You exceeded your current quota"),
        failure(401, "invalid_api_key"),
        failure(404, "model_not_found"),
        failure(503),
        dropped(),
        raw(b"<html>"),
        SLOW,
    ],
    ids=["rate", "money", "key", "name", "503", "dropped", "page", "slow"],
)
async def test_the_next_one_answers_and_all_say_which(
    reply: Reply, service: Service, engine: AsyncEngine, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = reply
    is_slow = reply is SLOW
    prices = {"model_prices": "second=0.002"}
    async with service(timeout_seconds=TIMEOUT_SECONDS if is_slow else 60.0, **prices) as api:
        given = (await upload(api, photo(1))).json()
        assert (given["model"], given["from_cache"], given["data"]["category"]) == (MODEL, False, "pets")
        hit = (await check(api, sha256(photo(1)))).json()
        assert (hit["model"], hit["cached"]) == (MODEL, True)
    assert (model_server.call_count, second.call_count) == (1, 1)
    assert [row.model for row in await rows_of(engine, RequestLog)] == [MODEL, MODEL]
    ledger = await ledger_of(engine)
    assert [(row.number, row.provider, row.model) for row in ledger] == [(0, "custom", FIRST), (1, "second", MODEL)]
    # Each at its own price; an error costs nothing, and a call without an answer in time does.
    assert [row.cost_micros for row in ledger] == [ledger[0].cost_micros, 2_000]
    assert ledger[0].cost_micros == (10_000 if is_slow else ledger[0].cost_micros)
    [entry] = await rows_of(engine, CachedImage)
    assert (entry.model_used, entry.cost_micros) == (MODEL, sum(row.cost_micros for row in ledger))
    assert await rows_of(engine, ModelCallLease) == []


@ON_SQLITE
async def test_models_are_asked_in_their_order_and_answers_are_counted(
    service: Service, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = second.default = failure(503)
    before = answers_of("fallback")
    async with service("second", "local") as api:
        given = (await upload(api, photo(1))).json()
        assert given["model"].startswith("local/")
        # Provisional: no hit, and the first model that answers replaces it.
        assert not (await check(api, sha256(photo(1)))).json()["cached"]
        model_server.script(Reply(text='{"category": "foods", "confidence": 0.5, "description": "x"}'))
        again = (await upload(api, photo(1))).json()
        assert (again["model"], again["from_cache"], again["data"]["category"]) == (FIRST, False, "foods")
        assert (await check(api, sha256(photo(1)))).json()["model"] == FIRST
    assert second.call_count == 1
    metrics.flush()
    assert answers_of("fallback") - before == 1


@ON_SQLITE
@pytest.mark.parametrize(("reply", "code"), [(refusal(), "model_refused"), (answer("no JSON"), "model_answer_invalid")])
async def test_what_may_be_the_pictures_fault_goes_to_no_other_model(
    reply: Reply, code: str, service: Service, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = reply
    async with service() as api:
        assert error_code(await upload(api, photo(1))) == code
        assert error_code(await upload(api, photo(1)[:200])) == "corrupt_image"
    assert second.call_count == 0


@ON_SQLITE
async def test_a_refusal_goes_on_where_the_operator_says_so(
    service: Service, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = refusal()
    async with service(on_refusal=True) as api:
        assert (await upload(api, photo(1))).json()["model"] == MODEL
        second.default = refusal()
        assert error_code(await upload(api, photo(2))) == "model_refused"


@ON_SQLITE
async def test_an_open_circuit_costs_no_call(
    service: Service, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = failure(503)
    async with service() as api:
        for number in range(7):
            assert (await upload(api, photo(number))).json()["model"] == MODEL
    # Five pictures open it.
    assert (model_server.call_count, second.call_count) == (5, 7)


@ON_SQLITE
async def test_where_none_answers_the_first_one_says_why(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default, second.default = SLOW, failure(503)
    async with service(timeout_seconds=TIMEOUT_SECONDS) as api:
        assert error_code(await upload(api, photo(1))) == "model_timeout"
    assert (model_server.call_count, second.call_count) == (1, 1)
    assert [row.model for row in await ledger_of(engine)] == [FIRST, MODEL]
    assert await rows_of(engine, CachedImage) == await rows_of(engine, ModelCallLease) == []


@ON_SQLITE
async def test_all_have_one_total_time(
    settings: Settings, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = SLOW
    chain = [
        Candidate(create_model_client(settings.model)),
        Candidate(SecondClient(settings.model), "second", Role.FALLBACK),
    ]
    began = time.monotonic()
    with pytest.raises(ModelTimeout):
        await ask_in_turn(
            chain,
            PreparedPhoto(photo(1)),
            CallMeter(),
            deadline=began + TIMEOUT_SECONDS,
            falls_back_on_refusal=False,
            can_pay=_pays,
            unpaid=ModelTimeout,
        )
    # An attempt may take half a minute; there was none of it left.
    assert time.monotonic() - began < settings.model.timeout_seconds / 2
    assert (model_server.call_count, second.call_count) == (1, 0)
    for candidate in chain:
        await candidate.client.close()


@ON_SQLITE
async def test_a_budget_that_is_used_up_leaves_what_costs_nothing(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    async with service("second", "local", daily_budget=Decimal("0.01")) as api:
        assert (await upload(api, photo(1))).json()["model"] == FIRST
        given = (await upload(api, photo(2))).json()
        assert given["model"].startswith("local/")
    # The second model has the same budget.
    assert (model_server.call_count, second.call_count) == (1, 0)
    async with service("second", daily_budget=Decimal("0.01")) as api:
        assert error_code(await upload(api, photo(3))) == "budget_exhausted"


@ON_SQLITE
async def test_an_account_does_not_pay_twice_for_what_a_fallback_has_said(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = failure(401, "invalid_api_key")
    async with service() as api, httpx2.AsyncClient(base_url=api.base_url.copy_with(path="/"), timeout=120) as site:
        owner = await person(site)
        image_id = (await upload_picture(site, owner)).json()["id"]
        question = {"image_id": image_id, "model_name": "default"}
        answers = [(await site.post("/images/inference", headers=owner, json=question)).json() for _ in range(2)]
    assert [(each["model"], each["from_cache"]) for each in answers] == [(MODEL, False), (MODEL, True)]
    assert second.call_count == 1
    assert [row.model for row in await rows_of(engine, RequestLog)] == [MODEL, MODEL]
    assert await rows_of(engine, CachedImage) == []


@ON_SQLITE
async def test_a_paid_fallback_of_a_free_model_keeps_the_budget(
    service: Service, engine: AsyncEngine, model_server: FakeModelServer, second: FakeModelServer
) -> None:
    model_server.default = failure(503)
    provider = f"{FreeClient.__module__}:{FreeClient.__name__}"
    async with service(provider=provider, daily_budget=Decimal("0.015")) as api:
        assert (await upload(api, photo(1))).json()["model"] == MODEL
        assert error_code(await upload(api, photo(2))) == "model_unreachable"
    assert (model_server.call_count, second.call_count) == (2, 1)
    assert [(row.number, row.model, row.cost_micros) for row in await ledger_of(engine)] == [(1, MODEL, 10_000)]
    assert [row.used for row in await rows_of(engine, BudgetUse)] == [10_000]


@pytest.mark.parametrize("is_paid", [True, False])
@ON_SQLITE
async def test_production_needs_a_budget_for_a_paid_fallback_too(
    is_paid: bool, settings: Settings, engine: AsyncEngine, second: FakeModelServer
) -> None:
    free = create_model_client(settings.model.model_copy(update={"provider": "local"}))
    production = settings.model_copy(update={"environment": Environment.PRODUCTION, "spending": spending_settings()})
    fallbacks = {"second": SecondClient(settings.model)} if is_paid else {}
    with pytest.raises(ModelConfigurationError, match="FALLBACK_MODELS=second") if is_paid else nullcontext():
        async with open_spending(production, engine, spool=no_spool(), model_client=free, fallbacks=fallbacks):
            pass
    for client in (free, *fallbacks.values()):
        await client.close()


@pytest.mark.parametrize("database_kind", ["sqlite", "mysql"], indirect=True)
@pytest.mark.parametrize(("budget", "calls"), [("0.019", 0), ("0.02", 1)])
async def test_a_fallback_is_asked_only_if_the_budget_has_room_for_both(
    budget: str,
    calls: int,
    service: Service,
    engine: AsyncEngine,
    model_server: FakeModelServer,
    second: FakeModelServer,
) -> None:
    # It is charged, since it may have been answered too late.
    model_server.default = SLOW
    async with service(timeout_seconds=TIMEOUT_SECONDS, daily_budget=Decimal(budget), photos_per_user=1) as api:
        response = await upload(api, photo(1), headers={"X-User-ID": "device-1"})
        assert response.status_code == (200 if calls else 504)
    assert (model_server.call_count, second.call_count) == (1, calls)
    used = {row.scope: row.used for row in await rows_of(engine, BudgetUse)}
    # One photo, whatever number of models has seen it.
    assert used == {"all": 10_000 * (1 + calls), "user:device-1": 1}


@pytest.mark.parametrize(("left", "others", "kept"), [(100, 0, 0), (100, 1, 30), (100, 2, 35), (40, 1, 5), (20, 1, 0)])
def test_a_model_leaves_time_for_those_after_it(left: float, others: int, kept: float) -> None:
    settings = model_settings("local", timeout_seconds=30.0)
    assert seconds_kept_for(others, settings, time.monotonic() + left) == pytest.approx(kept, abs=0.5)


@pytest.mark.parametrize("names", ["third", "openai", "second,second", "local,local"])
def test_names_that_no_fallback_can_have(names: str) -> None:
    values = {"MODELS": "second=package.module:Class", "FALLBACK_MODELS": names}
    with pytest.raises(ValidationError, match="FALLBACK_MODELS"):
        ModelSettings.model_validate(values)


def answers_of(role: str) -> float:
    """How many answers of this role were counted in this process."""
    samples = [sample for metric in metrics.MODEL_ANSWERS.collect() for sample in metric.samples]
    return sum(each.value for each in samples if each.labels.get("role") == role)


async def _pays(_: Candidate) -> bool:
    return True
