"""Every route x every kind of caller: which of them pass, and what the others are told.

The routes are the application's own. One without a row here fails, so that its author decides who may call it.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.routing import Mount
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.api.access import Area, area_of
from app.config.accounts import AccountSettings
from app.config.settings import CacheSettings, Settings
from app.main import create_app
from app.services import throttle
from app.services.accounts.tokens import TokenIssuer
from app.services.api_keys.key import Scope
from tests.support.keys import ADMIN_API_KEY, expired_key, key_of, revoked_key
from tests.support.people import TOKEN_KEY, sign_up
from tests.support.serving import serving

PASSES = "passes"
TOKEN = "token"
OPEN = "open"
# Scope `classify`, or the token of an account.
FEEDBACK = "feedback"

ROUTES: dict[str, str] = {
    "GET /": OPEN,
    "HEAD /": OPEN,
    "GET /docs": OPEN,
    "GET /docs/oauth2-redirect": OPEN,
    "GET /redoc": OPEN,
    "GET /redoc.js": OPEN,
    "GET /openapi.json": OPEN,
    "HEAD /openapi.json": OPEN,
    "GET /assets": OPEN,
    "GET /static-offline-docs": OPEN,
    "GET /demo": OPEN,
    "HEAD /demo": OPEN,
    "GET /health": OPEN,
    "HEAD /health": OPEN,
    "GET /health/live": OPEN,
    "HEAD /health/live": OPEN,
    "GET /api/v1/health": OPEN,
    "HEAD /api/v1/health": OPEN,
    "GET /api/v1/health/live": OPEN,
    "HEAD /api/v1/health/live": OPEN,
    # Closed by ADMIN_NETWORKS and by the proxy.
    "GET /metrics": OPEN,
    "GET /api/v1/categories": Scope.CLASSIFY,
    "POST /api/v1/classify": Scope.CLASSIFY,
    "POST /api/v1/classify/batch": Scope.CLASSIFY,
    "POST /api/v1/classify/check-cache": Scope.CLASSIFY,
    "POST /api/v1/classify/check-cache/batch": Scope.CLASSIFY,
    "POST /api/v1/feedback": FEEDBACK,
    "GET /api/v1/stats/today": Scope.STATS,
    "GET /api/v1/stats/timeseries": Scope.STATS,
    "GET /api/v1/stats/spending": Scope.STATS,
    "GET /api/v1/stats/accuracy": Scope.STATS,
    "GET /api/v1/stats/new-photos": Scope.STATS,
    "GET /api/v1/stats/cascade": Scope.STATS,
    "GET /api/v1/stats/cache-efficiency": Scope.STATS,
    "GET /api/v1/stats/category-distribution": Scope.STATS,
    "GET /api/v1/stats/users/top": Scope.STATS,
    "GET /api/v1/stats/top-images": Scope.STATS,
    "GET /api/v1/requests/{request_id}": Scope.STATS,
    "GET /dashboard": Scope.STATS,
    "HEAD /dashboard": Scope.STATS,
    "GET /dashboard/events": Scope.STATS,
    "PUT /api/v1/cache/{image_hash}": Scope.ADMIN,
    "DELETE /api/v1/cache/{image_hash}": Scope.ADMIN,
    "GET /api/v1/review/entries": Scope.ADMIN,
    "GET /api/v1/review/entries/{image_hash}": Scope.ADMIN,
    "POST /api/v1/review/actions": Scope.ADMIN,
    "GET /review": Scope.ADMIN,
    "HEAD /review": Scope.ADMIN,
    "GET /api/v1/users/{user_id:path}/data": Scope.ADMIN,
    "DELETE /api/v1/users/{user_id:path}/data": Scope.ADMIN,
    "POST /api/v1/tokens": Scope.ADMIN,
    "POST /users/": OPEN,
    "POST /users/token": OPEN,
    "GET /models": OPEN,
    "GET /users/me": TOKEN,
    "PUT /users/me": TOKEN,
    "DELETE /users/me": TOKEN,
    "DELETE /users/me/tokens": TOKEN,
    "GET /images/": TOKEN,
    "POST /images/upload": TOKEN,
    "GET /images/{image_id}": TOKEN,
    "DELETE /images/{image_id}": TOKEN,
    "GET /images/{image_id}/file": TOKEN,
    "GET /images/{image_id}/thumbnail": TOKEN,
    "POST /api/v1/jobs": TOKEN,
    "GET /api/v1/jobs/{job_id}": TOKEN,
    "DELETE /api/v1/jobs/{job_id}": TOKEN,
    "GET /api/v1/jobs/{job_id}/images": TOKEN,
    "POST /api/v1/jobs/{job_id}/images": TOKEN,
    "GET /images/inference": TOKEN,
    "GET /images/inference/": TOKEN,
    "POST /images/inference": TOKEN,
    "POST /images/inference/async": TOKEN,
    "GET /images/inference/events": TOKEN,
    "GET /images/inference/tasks": TOKEN,
    "GET /images/inference/tasks/{task_id}": TOKEN,
    "DELETE /images/inference/tasks/{task_id}": TOKEN,
    "GET /images/inference/{result_id}": TOKEN,
    "WEBSOCKET /ws/inference": TOKEN,
}
PARAMETERS = {
    "image_hash": "0" * 64,
    "request_id": "req_0_0",
    "image_id": "1",
    "task_id": "none",
    "job_id": "none",
    "result_id": "1",
    "user_id:path": "phone-1",
}
# By what it is about, since a log-in that is refused is a 401, too.
LOG_IN = "POST /users/token"

KEYS = ("no key", "wrong key", "expired key", "revoked key", "key: classify", "key: stats", "key: admin", ADMIN_API_KEY)
OF_TOKENS = {"foreign token": "invalid_token", "expired token": "token_expired", "token": PASSES}
TOKENS = tuple(OF_TOKENS)


def routes_of(app: FastAPI) -> Iterator[str]:
    """Method and path of every route of the application."""
    for context in iter_route_contexts(app.routes):
        route = getattr(context, "original_route", context)
        path = context.path if not isinstance(route, Mount) else route.path
        methods = getattr(context, "methods", None) or (["GET"] if isinstance(route, Mount) else ["WEBSOCKET"])
        yield from (f"{method} {path}" for method in methods)


def expected(kind: str, caller: str, route: str) -> str:
    """PASSES, or the code of the error."""
    if kind == OPEN:
        return PASSES
    if kind == TOKEN:
        return {**OF_TOKENS, "no key": "authentication_required"}.get(caller, "invalid_token")
    if kind == FEEDBACK:
        return OF_TOKENS.get(caller) or expected(Scope.CLASSIFY, caller, route)
    if caller in {f"key: {kind}", "key: admin", ADMIN_API_KEY}:
        return PASSES
    if caller.startswith("key: "):
        return "insufficient_scope"
    of_page = "dashboard_login_required" if "/dashboard" in route or route.endswith(" /review") else None
    return of_page or ("api_key_required" if caller == "no key" else "invalid_api_key")


@asynccontextmanager
async def service_on(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    account = AccountSettings.model_validate({"secret_key": TOKEN_KEY})
    cache = CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY})
    app = create_app(settings.model_copy(update={"account": account, "cache": cache}))
    async with serving(app) as url, httpx2.AsyncClient(base_url=url, timeout=120) as client:
        yield client


async def credentials_of(engine: AsyncEngine, service: httpx2.AsyncClient) -> dict[str, str | None]:
    """What each kind of caller sends, but for "token", which is another one's for each route."""
    user = await sign_up(service)
    gone = TokenIssuer([TOKEN_KEY], timedelta(seconds=-10)).issue(user["id"], 0)
    return {
        "no key": None,
        "wrong key": "ic_wrong",
        "expired key": (await expired_key(engine, *Scope)).text,
        "revoked key": (await revoked_key(engine, *Scope)).text,
        **{f"key: {scope}": (await key_of(engine, scope)).text for scope in Scope},
        ADMIN_API_KEY: ADMIN_API_KEY,
        "foreign token": TokenIssuer(["f" * 32], timedelta(days=1)).issue(user["id"], 0).text,
        "expired token": gone.text,
    }


async def outcome(service: httpx2.AsyncClient, route: str, credential: str | None) -> str:
    """PASSES where the route itself was reached, else the code of the error."""
    method, path = route.split(" ")
    path = re.sub(r"{([^}]*)}", lambda found: PARAMETERS[found[1]], path)
    if method == "WEBSOCKET":
        return await socket_outcome(service, path, credential)
    headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
    body: dict[str, Any] = {"json": {}} if method in {"POST", "PUT"} else {}
    # A stream of events has no end.
    async with service.stream(method, path, headers=headers, **body) as answer:
        if answer.status_code not in {401, 403, 429} or route == LOG_IN:
            assert answer.status_code < 500, (route, answer.status_code)
            return PASSES
        text = (await answer.aread()).decode()
        if method == "HEAD":
            return "insufficient_scope" if answer.status_code == 403 else "dashboard_login_required"
        return str(json.loads(text)["error"]["code"])


async def socket_outcome(service: httpx2.AsyncClient, path: str, credential: str | None) -> str:
    url = f"{str(service.base_url).replace('http', 'ws', 1).rstrip('/')}{path}"
    # None is an empty token here: without any, the service waits for the first message.
    async with connect(f"{url}?token={credential or ''}", proxy=None) as connection:
        try:
            await connection.recv()
        except ConnectionClosed as end:
            return "none" if end.rcvd is None else end.rcvd.reason
        return PASSES


def test_every_route_has_a_row(settings: Settings) -> None:
    assert sorted(set(routes_of(create_app(settings)))) == sorted(ROUTES)


@pytest.mark.parametrize("route", [route for route, kind in ROUTES.items() if kind in set(Scope)])
def test_the_table_of_areas_knows_the_route(route: str) -> None:
    areas = {Scope.CLASSIFY: Area.CLASSIFICATION, Scope.STATS: Area.STATISTICS, Scope.ADMIN: Area.ADMINISTRATION}
    assert area_of(route.split(" ")[1]) == areas[Scope(ROUTES[route])]


async def test_who_may_what(settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(throttle.FREE_FAILURES, throttle.Subject.KEY_ADDRESS, 10_000)
    monkeypatch.setitem(throttle.FREE_FAILURES, throttle.Subject.ADDRESS, 10_000)
    monkeypatch.setitem(throttle.FREE_FAILURES, throttle.Subject.SIGN_UP, 10_000)
    async with service_on(settings) as service:
        credentials = await credentials_of(engine, service)
    # Once more: a service that has known the keys from its start.
    wrong = {}
    async with service_on(settings) as service:
        for number, (route, kind) in enumerate(ROUTES.items()):
            # One of its own for each route: some end the account or its tokens.
            user = await sign_up(service, username=f"user{number}", email=f"user{number}@example.com")
            token = TokenIssuer([TOKEN_KEY], timedelta(days=1)).issue(user["id"], 0).text
            for caller in (*KEYS, *TOKENS):
                said = await outcome(service, route, credentials.get(caller, token))
                told = expected(kind, caller, route)
                if route == "WEBSOCKET /ws/inference" and caller == "no key":
                    told = "invalid_token"
                if said != told:
                    wrong[f"{route}, {caller}"] = f"{said}, not {told}"
    assert wrong == {}
