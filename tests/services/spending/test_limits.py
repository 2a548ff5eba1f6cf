"""A limit holds to the last photo, whatever number of requests, workers, instances and machines share a database."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, nullcontext
from decimal import Decimal

import httpx2
import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.errors import ModelConfigurationError
from app.clients.registry import create_model_client
from app.clock import day_in_utc, utc_now
from app.config.settings import Environment, Settings
from app.database.tables.classification import ModelCallLease
from app.database.tables.spending import BudgetUse
from app.services.request_log.record import Caller
from app.services.spending.lifespan import open_spending
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import answer, failure
from tests.fakes.model_server import FakeModelServer
from tests.services.spending.test_ledger import service_with, upload
from tests.support.instances import Site
from tests.support.spending import ZONE, ledger_of, spending_for, spending_settings
from tests.support.spools import no_spool

pytestmark = pytest.mark.usefixtures("engine")


def photo(number: int) -> bytes:
    return jpeg_photo(32 + number % 50, 32 + number // 50)


async def upload_many(client: httpx2.AsyncClient, numbers: range, **headers: str) -> Counter[str]:
    """Upload different photos at once; return how often each outcome was."""
    responses = await asyncio.gather(*(upload(client, photo(number), **headers) for number in numbers))
    outcomes: Counter[str] = Counter()
    for response in responses:
        body = response.json()
        outcomes["ok" if body["success"] else body["error"]["code"]] += 1
    return outcomes


async def test_a_budget_of_ten_calls_makes_ten_calls(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.delay_seconds = 0.2
    async with service_with(settings, daily_budget=Decimal("0.1")) as client:
        assert await upload_many(client, range(60)) == {"ok": 10, "budget_exhausted": 50}
        refused = await upload(client, photo(61))
        assert refused.status_code == 429
        _, tomorrow = day_in_utc(utc_now().astimezone(ZONE).date(), ZONE)
        assert int(refused.headers["Retry-After"]) == pytest.approx((tomorrow - utc_now()).total_seconds(), abs=30)
        # What is known is still answered.
        known = [number for number in range(60) if (await upload(client, photo(number))).status_code == 200]
        assert len(known) == 10
    assert model_server.call_count == len(await ledger_of(engine)) == 10
    async with engine.connect() as connection:
        assert (await connection.scalars(select(BudgetUse.used))).all() == [100_000]
        assert (await connection.execute(select(ModelCallLease.image_hash))).all() == []


async def test_what_is_left_of_a_budget_is_not_overdrawn_by_a_correction(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    async with service_with(settings, daily_budget=Decimal("0.035")) as client:
        model_server.script(answer("what?"), answer("what?"), answer("what?"))
        assert await upload_many(client, range(1)) == {"model_answer_invalid": 1}
        assert model_server.call_count == 2
        assert await upload_many(client, range(1)) == {"model_answer_invalid": 1}
        # A correction would cost more than there is.
        assert model_server.call_count == 3
        assert await upload_many(client, range(1)) == {"budget_exhausted": 1}
    assert sum(row.cost_micros for row in await ledger_of(engine)) == 30_000


async def test_a_call_that_cost_nothing_leaves_the_budget_as_it_was(
    settings: Settings, model_server: FakeModelServer
) -> None:
    async with service_with(settings, daily_budget=Decimal("0.01")) as client:
        model_server.script(failure(500, retry_after="0"), failure(401), failure(500, retry_after="0"))
        assert await upload_many(client, range(1)) == {"model_authentication_failed": 1}
        assert await upload_many(client, range(1)) == {"ok": 1}
        assert await upload_many(client, range(1, 2)) == {"budget_exhausted": 1}


async def test_the_reservation_of_a_process_that_is_gone_goes_with_its_lease(
    settings: Settings, engine: AsyncEngine
) -> None:
    async with engine.begin() as connection:
        lease = {"image_hash": "f" * 64, "owner": "f" * 32, "reserved_micros": 10_000}
        await connection.execute(insert(ModelCallLease).values(**lease))
    async with service_with(settings, daily_budget=Decimal("0.01")) as client:
        for _ in range(300):
            if await upload_many(client, range(1)) == {"ok": 1}:
                break
            await asyncio.sleep(0.2)
        else:
            pytest.fail("the reservation is still there")


async def test_what_was_spent_before_there_was_a_budget_counts(
    settings: Settings, model_server: FakeModelServer
) -> None:
    async with service_with(settings) as client:
        assert await upload_many(client, range(3)) == {"ok": 3}
    async with service_with(settings, daily_budget=Decimal("0.05")) as client:
        assert await upload_many(client, range(3, 10)) == {"ok": 2, "budget_exhausted": 5}
    assert model_server.call_count == 5


async def test_a_key_has_a_budget_of_its_own(engine: AsyncEngine) -> None:
    spending = spending_for(engine, daily_budget=Decimal("0.5"))
    rich = Caller(api_key_id=7, key_budget_micros=20_000)
    limits = {limit.scope: limit.most for limit in spending._limits(rich, is_paid=True)}
    assert limits == {"key:7": 20_000, "all": 500_000}
    assert [limit.scope for limit in spending._limits(Caller(api_key_id=8), is_paid=True)] == ["all"]
    assert spending._limits(rich, is_paid=False) == []


async def test_invented_users_of_one_address_share_its_limit(settings: Settings, model_server: FakeModelServer) -> None:
    """120 pictures that differ in four bytes, from one address, each with another user id."""
    data = jpeg_photo(64, 64)

    async def decided(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
        while True:
            answer = await upload(client, data + number.to_bytes(4, "big"), **{"X-User-ID": f"invented-{number}"})
            # All of them wait for one row: on a busy machine some longer than a request may.
            if answer.is_success or answer.json()["error"]["code"] not in {"database_unavailable", "server_busy"}:
                return answer

    async with service_with(settings, photos_per_address=20) as client:
        responses = await asyncio.gather(*(decided(client, number) for number in range(120)))
        codes = Counter("ok" if r.is_success else r.json()["error"]["code"] for r in responses)
        assert codes == {"ok": 20, "address_limit": 100}
        assert 1 <= int(responses[-1].headers.get("Retry-After", 1)) <= 3600
    assert model_server.call_count == 20


async def test_a_user_has_a_limit(settings: Settings, model_server: FakeModelServer) -> None:
    async with service_with(settings, photos_per_user=3) as client:
        assert await upload_many(client, range(5), **{"X-User-ID": "a"}) == {"ok": 3, "user_limit": 2}
        assert await upload_many(client, range(10, 12), **{"X-User-ID": "A"}) == {"ok": 2}
        assert await upload_many(client, range(20, 24)) == {"ok": 4}
    assert model_server.call_count == 9


def test_an_address_of_ipv6_is_its_network(engine: AsyncEngine) -> None:
    spending = spending_for(engine, photos_per_address=5)

    def scopes(address: str) -> list[str]:
        return [limit.scope for limit in spending._limits(Caller(ip_address=address), is_paid=True)]

    assert scopes("2001:db8:1:2::1") == scopes("2001:db8:1:2:ffff::9") == ["ip:2001:db8:1:2::/64"]
    assert scopes("192.0.2.1") == ["ip:192.0.2.1"]
    assert spending._limits(Caller(ip_address="192.0.2.1", api_key_id=1), is_paid=True) == []


@pytest.mark.parametrize(("budget", "starts"), [(None, False), ("unlimited", True), ("5", True)])
async def test_production_with_a_paid_model_needs_a_budget(
    settings: Settings, engine: AsyncEngine, budget: str | None, starts: bool
) -> None:
    production = settings.model_copy(
        update={"environment": Environment.PRODUCTION, "spending": spending_settings(daily_budget=budget)}
    )
    client = create_model_client(settings.model)
    with nullcontext() if starts else pytest.raises(ModelConfigurationError, match="DAILY_BUDGET"):
        async with open_spending(production, engine, spool=no_spool(), model_client=client) as spending:
            limits = spending._limits(Caller(ip_address="192.0.2.1"), is_paid=True)
            # Strangers cannot spend it all.
            assert ("ip:192.0.2.1", 100) in [(limit.scope, limit.most) for limit in limits]
    await client.close()


async def test_the_local_model_takes_over_where_the_operator_wants_it(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model = settings.model.model_copy(update={"fallback_models": ("local",)})
    with_local = settings.model_copy(update={"model": model})
    async with service_with(with_local, daily_budget=Decimal("0.01")) as client:
        assert await upload_many(client, range(1)) == {"ok": 1}
        assert await upload_many(client, range(1, 3)) == {"ok": 2}
        assert model_server.call_count == len(await ledger_of(engine)) == 1
        # Its answers are not for good: they are no hits.
        assert not (await upload(client, photo(1))).json()["from_cache"]
    async with service_with(settings) as client:
        assert not (await upload(client, photo(1))).json()["from_cache"]
        assert (await upload(client, photo(1))).json()["from_cache"]
    assert model_server.call_count == 2


# Processes cost seconds; the reservation's SQL is tested above, on every kind.
@pytest.mark.parametrize("database_kind", ["mysql"], indirect=True)
async def test_two_instances_of_two_workers_keep_a_budget(site: Site, model_server: FakeModelServer) -> None:
    site.environment["DAILY_BUDGET"] = "0.1"
    started = await asyncio.gather(*(site.start("gunicorn", workers=2) for _ in range(2)))
    instances = [url for url, _ in started]
    model_server.delay_seconds = 0.5
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx2.AsyncClient(base_url=f"{instances[number % 2]}/api/v1", timeout=120))
            for number in range(8)
        ]
        responses = await asyncio.gather(*(upload(clients[number % 8], photo(number)) for number in range(200)))
    codes = Counter("ok" if each.is_success else each.json()["error"]["code"] for each in responses)
    assert codes == {"ok": 10, "budget_exhausted": 190}
    assert model_server.call_count == len(await ledger_of(site.engine)) == 10
