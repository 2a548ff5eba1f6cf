"""What one may do with an account, and when: sign-up, changes with a stolen token, log-out everywhere."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.accounts import AccountSettings
from app.config.settings import Environment, Settings
from app.main import create_app
from app.services.accounts.tokens import kept_secret_key
from app.services.throttle import FREE_FAILURES, Subject
from tests.support.people import USER, bearer, code, log_in, sign_up
from tests.support.serving import serving
from tests.support.spending import spending_settings

FRESH, OLD = timedelta(minutes=9), timedelta(minutes=11)


def aged(settings: Settings, token: str, age: timedelta, **changes: Any) -> dict[str, str]:
    """The header with the same token, issued that long ago."""
    claims = jwt.decode(token, options={"verify_signature": False})
    claims |= {"iat": utc_now() - age, **changes}
    return bearer(jwt.encode(claims, kept_secret_key(settings.data_dir), algorithm="HS256"))


@pytest.mark.parametrize(
    "changes", [{"password": "another password"}, {"email": "thief@example.com"}, {"username": "thief"}]
)
async def test_an_old_token_alone_changes_nothing(
    service: httpx2.AsyncClient, settings: Settings, changes: dict[str, str]
) -> None:
    user = await sign_up(service)
    token = await log_in(service)
    old = aged(settings, token, OLD)
    for body in (changes, changes | {"current_password": "wrong"}, changes | {"current_password": ""}):
        refused = await service.put("/users/me", headers=old, json=body)
        assert code(refused) == (403, "reauthentication_required")
    assert (await service.get("/users/me", headers=old)).json() == user
    # Also a fresh one does not make good a wrong password.
    body = changes | {"current_password": "wrong"}
    assert code(await service.put("/users/me", headers=bearer(token), json=body)) == (403, "reauthentication_required")
    changed = await service.put("/users/me", headers=old, json=changes | {"current_password": USER["password"]})
    assert changed.status_code == 200


async def test_a_fresh_token_changes_and_deletes(service: httpx2.AsyncClient, settings: Settings) -> None:
    await sign_up(service)
    fresh = aged(settings, await log_in(service), FRESH)
    assert (await service.put("/users/me", headers=fresh, json={"email": "new@example.com"})).status_code == 200
    assert (await service.delete("/users/me", headers=fresh)).status_code == 204


async def test_an_old_token_alone_deletes_no_account(service: httpx2.AsyncClient, settings: Settings) -> None:
    await sign_up(service)
    old = aged(settings, await log_in(service), OLD)

    async def delete(body: Any) -> httpx2.Response:
        return await service.request("DELETE", "/users/me", headers=old, json=body)

    assert code(await service.delete("/users/me", headers=old)) == (403, "reauthentication_required")
    for body in ({}, {"current_password": "wrong"}, {"current_password": None}):
        assert code(await delete(body)) == (403, "reauthentication_required")
    assert code(await delete({"current_password": 5})) == (400, "invalid_request")
    assert (await delete({"current_password": USER["password"]})).status_code == 204
    assert (await service.post("/users/token", data=USER)).status_code == 401


async def test_a_stolen_token_does_not_guess_the_password(service: httpx2.AsyncClient, settings: Settings) -> None:
    await sign_up(service)
    old = aged(settings, await log_in(service), OLD)
    statuses = []
    for _ in range(FREE_FAILURES[Subject.ACCOUNT] + 1):
        body = {"email": "thief@example.com", "current_password": "guess"}
        statuses.append((await service.put("/users/me", headers=old, json=body)).status_code)
    assert statuses == [403] * (len(statuses) - 1) + [429]


async def test_nothing_to_change_asks_for_no_password(service: httpx2.AsyncClient, settings: Settings) -> None:
    user = await sign_up(service)
    old = aged(settings, await log_in(service), OLD)
    assert (await service.put("/users/me", headers=old, json={})).json() == user


@pytest.mark.parametrize(
    "sub", ["abc", "-1", "0", "9" * 19, "9" * 400, "99999999999999999999", ["1"], {"1": 1}, None, 1.5, " 1", "１"]
)
async def test_an_odd_sub_of_a_token_that_we_signed_is_a_401(
    service: httpx2.AsyncClient, settings: Settings, sub: Any
) -> None:
    await sign_up(service)
    claims = jwt.decode(await log_in(service), options={"verify_signature": False}) | {"sub": sub}
    key = kept_secret_key(settings.data_dir)
    token = jwt.PyJWS().encode(json.dumps(claims).encode(), key, algorithm="HS256")
    assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")


async def test_logging_out_everywhere(service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    await sign_up(service, username="other", email="other@example.com")
    tokens = [await log_in(service), await log_in(service)]
    others = await log_in(service, "other")
    assert (await service.delete("/users/me/tokens", headers=bearer(tokens[0]))).status_code == 204
    for token in tokens:
        assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")
    assert code(await service.delete("/users/me/tokens", headers=bearer(tokens[1]))) == (401, "invalid_token")
    assert (await service.get("/users/me", headers=bearer(others))).status_code == 200
    assert (await service.get("/users/me", headers=bearer(await log_in(service)))).status_code == 200


async def test_sign_ups_from_an_address_are_slow(service: httpx2.AsyncClient) -> None:
    free = FREE_FAILURES[Subject.SIGN_UP]
    # Also those that only ask whether a name is taken, and many at once.
    answers = await asyncio.gather(*(service.post("/users/", json=USER) for _ in range(free + 5)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(201) == 1
    assert statuses.count(201) + statuses.count(409) <= free + 1
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert code(refused) == (429, "too_many_sign_ups")
    assert int(refused.headers["Retry-After"]) >= 1
    # Those who have an account are not concerned.
    assert await log_in(service)


@pytest.mark.parametrize(
    ("sign_up_setting", "environment", "is_open"),
    [
        ("open", Environment.DEVELOPMENT, True),
        ("closed", Environment.DEVELOPMENT, False),
        (None, Environment.DEVELOPMENT, True),
        (None, Environment.PRODUCTION, False),
        ("open", Environment.PRODUCTION, True),
    ],
)
async def test_sign_up_may_be_closed_and_is_in_production(
    settings: Settings, engine: AsyncEngine, sign_up_setting: str | None, environment: Environment, is_open: bool
) -> None:
    account = AccountSettings.model_validate({"sign_up": sign_up_setting, "secret_key": "k" * 32})
    spending = spending_settings(daily_budget="unlimited")
    changed = {"account": account, "environment": environment, "spending": spending}
    async with (
        serving(create_app(settings.model_copy(update=changed))) as url,
        httpx2.AsyncClient(base_url=url) as client,
    ):
        answer = await client.post("/users/", json=USER)
        if is_open:
            assert answer.status_code == 201
        else:
            assert code(answer) == (403, "sign_up_closed")
            assert code(await client.post("/users/token", data=USER)) == (401, "login_failed")
