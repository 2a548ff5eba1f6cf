"""Who may ask over HTTP: keys on both ways through the service, closed statistics, networks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.api.access import Area, area_of
from app.api.dependencies import caller_of
from app.config.access import AccessSettings
from app.config.accounts import AccountSettings
from app.config.settings import CacheSettings, Environment, Settings
from app.main import create_app
from app.services.api_keys.key import Scope
from app.services.throttle import FREE_FAILURES, Subject
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import check, error_code, photo, sha256, upload
from tests.support.keys import ADMIN_API_KEY, DEADLINE_SECONDS, key_of, until
from tests.support.people import TOKEN_KEY, bearer, log_in, sign_up
from tests.support.serving import serving
from tests.support.spending import spending_settings

STATISTICS = ("/api/v1/stats/today", "/api/v1/stats/top-images", "/api/v1/requests/req_0_0", "/dashboard")


@asynccontextmanager
async def service_with(settings: Settings, **access: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service with these settings of who may ask."""
    changed = settings.model_copy(update={"access": AccessSettings.model_validate(access)})
    async with serving(create_app(changed)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as client:
        yield client


def of_api(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=client.base_url.join("/api/v1"), timeout=120)


async def test_from_the_first_key_on_one_is_needed(
    settings: Settings, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    data = photo(1)
    origin = {"Origin": "https://app.example"}
    async with service_with(settings) as client, of_api(client) as api:
        assert (await upload(api, data)).status_code == 200
        key = await key_of(engine, Scope.CLASSIFY)

        async def is_closed() -> bool:
            return (await check(api, sha256(data))).status_code == 401

        await until(is_closed)
        calls = model_server.call_count
        # By the fast path and by the routes.
        for more in ({}, origin):
            for answer in (await check(api, sha256(data), headers=more), await upload(api, photo(2), headers=more)):
                assert (answer.status_code, error_code(answer)) == (401, "api_key_required")
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert answer.headers.get("Access-Control-Allow-Origin") == ("*" if more else None)
            for sent in ({"X-API-Key": key.text}, {"Authorization": f"Bearer {key.text}"}):
                assert (await check(api, sha256(data), headers={**more, **sent})).json()["cached"] is True
                assert (await upload(api, data, headers={**more, **sent})).status_code == 200
        assert model_server.call_count == calls
        # A browser asks first, without any key.
        preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
        assert (await api.options("/classify", headers=preflight)).status_code == 200
        assert (await api.get("/nothing")).status_code == 401


async def test_a_key_may_be_required_before_the_first_exists(settings: Settings, engine: AsyncEngine) -> None:
    async with service_with(settings, require_api_key=True) as client, of_api(client) as api:
        assert error_code(await check(api, "0" * 64)) == "api_key_required"
        assert (await api.get("/health")).status_code == 200
        assert (await client.get("/health/live")).status_code == 200


async def test_a_refused_upload_is_not_read(settings: Settings, engine: AsyncEngine) -> None:
    """The answer comes while the client has sent nothing but the header."""
    async with service_with(settings, require_api_key=True) as client:
        address = urlsplit(str(client.base_url))
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            b"POST /api/v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 9000000\r\n\r\n"
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert b" 401 " in await reader.readline()
        writer.close()


async def test_an_account_needs_its_token_alone(settings: Settings, engine: AsyncEngine) -> None:
    key = await key_of(engine, Scope.ADMIN)
    account = AccountSettings.model_validate({"secret_key": TOKEN_KEY})
    async with service_with(settings.model_copy(update={"account": account})) as client:
        await sign_up(client)
        token = bearer(await log_in(client))
        assert (await client.get("/users/me", headers=token)).status_code == 200
        assert (await client.get("/images/", headers={**token, "X-API-Key": key.text})).status_code == 200
        assert error_code(await client.get("/users/me", headers=bearer(key.text))) == "invalid_token"
        assert error_code(await client.get("/api/v1/categories", headers=token)) == "invalid_api_key"
        both = {**token, "X-API-Key": key.text}
        assert (await client.get("/api/v1/categories", headers=both)).status_code == 200


async def test_guessing_over_http_is_slow(settings: Settings, engine: AsyncEngine) -> None:
    cache = CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY})
    async with service_with(settings.model_copy(update={"cache": cache})) as client:
        guesses = [
            await client.get("/api/v1/stats/today", headers=bearer(f"guess {number}"))
            for number in range(FREE_FAILURES[Subject.KEY_ADDRESS] + 1)
        ]
        assert [answer.status_code for answer in guesses[:-1]] == [401] * (len(guesses) - 1)
        assert error_code(guesses[-1]) == "too_many_wrong_keys"
        assert guesses[-1].status_code == 429
        assert int(guesses[-1].headers["Retry-After"]) >= 1
        # The right one has to wait as well; what needs no key does not.
        for path in ("/api/v1/stats/today", "/dashboard"):
            assert (await client.get(path, headers=bearer(ADMIN_API_KEY))).status_code == 429
        assert (await client.get("/api/v1/categories")).status_code == 200
        elsewhere = {**bearer(ADMIN_API_KEY), "X-Forwarded-For": "192.0.2.77"}
        assert (await client.get("/api/v1/stats/today", headers=elsewhere)).status_code == 200


async def statuses(client: httpx2.AsyncClient, **headers: str) -> set[int]:
    return {(await client.get(path, headers=headers)).status_code for path in STATISTICS}


async def test_statistics_are_closed_as_soon_as_there_is_a_key(settings: Settings, engine: AsyncEngine) -> None:
    async with service_with(settings) as client:
        assert await statuses(client) == {200, 404}
    key = await key_of(engine, Scope.STATS)
    async with service_with(settings) as client:
        assert await statuses(client) == {401}
        assert (await client.get("/dashboard/events")).status_code == 401
        assert await statuses(client, **{"X-API-Key": key.text}) == {200, 404}
    async with service_with(settings, public_statistics=True) as client:
        assert await statuses(client) == {200, 404}


async def test_production_closes_them_without_any_key(settings: Settings, engine: AsyncEngine) -> None:
    account = AccountSettings.model_validate({"secret_key": TOKEN_KEY})
    spending = spending_settings(daily_budget="unlimited")
    update = {"environment": Environment.PRODUCTION, "account": account, "spending": spending}
    production = settings.model_copy(update=update)
    async with service_with(production) as client, of_api(client) as api:
        assert await statuses(client) == {401}
        assert (await check(api, "0" * 64)).status_code == 200
    async with service_with(production, public_statistics=True) as client:
        assert await statuses(client) == {200, 404}


async def test_networks_are_those_of_the_client(settings: Settings, engine: AsyncEngine) -> None:
    networks = {"allowed_networks": "192.0.2.0/24, 2001:db8::/32,::ffff:198.51.100.0/120", "admin_networks": "10.1.2.3"}
    async with service_with(settings, **networks) as client, of_api(client) as api:

        async def status(path: str, address: str) -> int:
            return (await client.get(path, headers={"X-Forwarded-For": address})).status_code

        for address in ("192.0.2.9", "2001:db8:ffff::1", "::ffff:192.0.2.9", "198.51.100.7"):
            assert await status("/api/v1/categories", address) == 200, address
            assert await status("/models", address) == 200, address
            for path in (*STATISTICS, "/metrics"):
                assert await status(path, address) == 403, address
        for address in ("192.0.3.9", "2001:db9::1", "::ffff:10.0.0.1", "no-address"):
            for path in ("/api/v1/categories", "/models", "/docs", "/demo", "/nothing", "/metrics", *STATISTICS):
                assert await status(path, address) == 403, (address, path)
            for path in ("/health", "/health/live", "/api/v1/health", "/api/v1/health/live"):
                assert await status(path, address) == 200, address
        socket = f"{str(client.base_url).replace('http', 'ws', 1).rstrip('/')}/ws/inference"
        with pytest.raises(InvalidStatus, match="403"):
            async with connect(socket, proxy=None, additional_headers={"X-Forwarded-For": "192.0.3.9"}):
                pass
        async with connect(socket, proxy=None, additional_headers={"X-Forwarded-For": "192.0.2.9"}):
            pass
        for path in (*STATISTICS, "/metrics"):
            assert await status(path, "10.1.2.3") in {200, 404}
        refused = await check(api, "0" * 64)
        assert (refused.status_code, error_code(refused)) == (403, "network_not_allowed")
        assert (await check(api, "0" * 64, headers={"X-Forwarded-For": "192.0.2.1"})).status_code == 200


@pytest.mark.parametrize("text", ["10.0.0.0/33", "example.com", "10.0.0.1-10.0.0.9", "::/129"])
def test_what_is_no_network_stops_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="is no address or network"):
        AccessSettings.model_validate({"allowed_networks": text})


def test_paths_that_only_look_alike_are_closed() -> None:
    assert area_of("/api/v1") == Area.CLASSIFICATION
    assert area_of("/api/v1/statsx") == Area.CLASSIFICATION
    assert area_of("/api/v1/health/x") == Area.CLASSIFICATION
    assert area_of("/api/v1/stats/") == Area.STATISTICS
    assert area_of("/dashboardx") == Area.PAGES


async def test_who_pays_is_known(settings: Settings, engine: AsyncEngine) -> None:
    new = await key_of(engine, Scope.CLASSIFY, budget_micros=7)
    app = create_app(settings)
    async with serving(app):
        key = await app.state.resources.api_keys.find_by_id(new.id)
        state = {"request_id": "r", "started_at": 0.0, "api_key": key}
        scope = {"type": "http", "app": app, "headers": [], "state": state, "client": ("192.0.2.1", 1)}
        caller = caller_of(scope, None)
    assert (caller.api_key_id, caller.key_budget_micros) == (new.id, 7)


async def test_requests_per_minute_are_limited_by_key_and_by_address(settings: Settings, engine: AsyncEngine) -> None:
    async with service_with(settings, requests_per_minute_per_address=5) as client, of_api(client) as api:
        # The fast path, the routes, accounts; each address by itself.
        answers = [await check(api, "0" * 64) for _ in range(20)]
        assert answers[0].status_code == 200
        assert (answers[-1].status_code, error_code(answers[-1])) == (429, "rate_limited")
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert (await client.get("/models")).status_code == 429
        for path in ("/health", "/docs", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/models", headers={"X-Forwarded-For": "192.0.2.5"})).status_code == 200
    slow, quick = await key_of(engine, Scope.CLASSIFY, rate_per_minute=5), await key_of(engine, Scope.CLASSIFY)
    async with service_with(settings, requests_per_minute_per_address=5) as client, of_api(client) as api:
        for key, last in ((slow, 429), (quick, 200)):
            statuses = [(await check(api, "0" * 64, headers=bearer(key.text))).status_code for _ in range(20)]
            assert (statuses[0], statuses[-1]) == (200, last)
