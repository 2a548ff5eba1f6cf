"""Whose token it has to be: the same answer on every route of inference, whatever is wrong with it."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest

from app.config.settings import Settings
from app.services.accounts.tokens import TokenIssuer, kept_secret_key
from tests.support.people import bearer, code, log_in, sign_up

ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/images/inference", {"image_id": 1}),
    ("GET", "/images/inference/", None),
    ("GET", "/images/inference", None),
    ("GET", "/images/inference/1", None),
]

MakeToken = Callable[[httpx2.AsyncClient, Settings], Awaitable[str | None]]


async def no_token(service: httpx2.AsyncClient, settings: Settings) -> str | None:
    return None


async def foreign(service: httpx2.AsyncClient, settings: Settings) -> str:
    claims = jwt.decode(await log_in(service), options={"verify_signature": False})
    return jwt.encode(claims, "k" * 64, algorithm="HS256")


async def unsigned(service: httpx2.AsyncClient, settings: Settings) -> str:
    claims = jwt.decode(await log_in(service), options={"verify_signature": False})
    return jwt.encode(claims, "", algorithm="none")


async def expired(service: httpx2.AsyncClient, settings: Settings) -> str:
    claims = jwt.decode(await log_in(service), options={"verify_signature": False})
    issuer = TokenIssuer([kept_secret_key(settings.data_dir)], timedelta(seconds=-10))
    return issuer.issue(int(claims["sub"]), claims["gen"]).text


async def of_the_deleted(service: httpx2.AsyncClient, settings: Settings) -> str:
    token = await log_in(service)
    assert (await service.delete("/users/me", headers=bearer(token))).status_code == 204
    return token


async def of_an_old_password(service: httpx2.AsyncClient, settings: Settings) -> str:
    token = await log_in(service)
    await service.put("/users/me", headers=bearer(token), json={"password": "another password"})
    return token


@pytest.mark.parametrize(
    ("make_token", "expected"),
    [
        (no_token, "authentication_required"),
        (foreign, "invalid_token"),
        (unsigned, "invalid_token"),
        (expired, "token_expired"),
        (of_the_deleted, "invalid_token"),
        (of_an_old_password, "invalid_token"),
    ],
)
async def test_tokens_that_do_not_count(
    service: httpx2.AsyncClient, settings: Settings, make_token: MakeToken, expected: str
) -> None:
    await sign_up(service)
    token = await make_token(service, settings)
    headers = {} if token is None else bearer(token)
    for method, path, body in ROUTES:
        answer = await service.request(method, path, json=body, headers=headers)
        assert code(answer) == (401, expected), path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert token is None or token not in answer.text


async def test_everybody_may_see_the_models(service: httpx2.AsyncClient) -> None:
    answer = await service.get("/models")
    assert answer.status_code == 200
    names = [item["name"] for item in answer.json()["items"]]
    assert names == ["custom", "default", "dummy"]
    assert [item["name"] for item in answer.json()["items"] if item["is_default"]] == ["dummy"]
    default = next(item for item in answer.json()["items"] if item["name"] == "default")
    assert (default["alias_of"], default["provider"], default["model"]) == ("custom", "custom", "test-vision")
