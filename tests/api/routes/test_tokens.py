"""Device tokens over HTTP: who issues them, what they are good for, and what they never are."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import jwt
import pytest
from loguru import logger
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.accounts import AccountSettings
from app.config.settings import CacheSettings, Settings
from app.database.tables.api_keys import ApiKey
from app.database.tables.request_log import RequestLog
from app.main import create_app
from app.services import throttle
from app.services.accounts.tokens import key_id
from tests.fakes.model_server import FakeModelServer
from tests.support.audit import details_of, entries
from tests.support.classify import check, error_code, photo, sha256, upload
from tests.support.people import bearer, log_in, sign_up
from tests.support.serving import serving
from tests.support.signing import Key, known_key, sign

ADMIN = {"Authorization": "Bearer an-admin-key-for-tests"}
SECRET = "a secret of the tests that is long enough"
HASH = "0" * 64


@pytest.fixture
async def api(settings: Settings, engine: AsyncEngine) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service that has an admin key and a secret that the test knows."""
    changes = {
        "cache": CacheSettings.model_validate({"admin_api_key": "an-admin-key-for-tests"}),
        "account": AccountSettings.model_validate({"secret_key": SECRET}),
    }
    async with (
        serving(create_app(settings.model_copy(update=changes))) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client,
    ):
        yield client


async def issued(api: httpx2.AsyncClient, device_id: str = "device-1", **more: Any) -> dict[str, Any]:
    response = await api.post("/tokens", json={"device_id": device_id, **more}, headers=ADMIN)
    assert response.status_code == 200, response.text
    data: dict[str, Any] = response.json()["data"]
    return data


def forged(secret: str = SECRET, kid: str | None = None, typ: str = "device+jwt", **claims: Any) -> dict[str, str]:
    now = datetime.now(UTC)
    usual = {
        "aud": "image-classifier:device",
        "sub": "device-1",
        "scope": "classify",
        "new_photos_per_day": None,
        "api_key_id": None,
        "iat": now,
        "exp": now + timedelta(hours=1),
        "jti": "x",
    }
    kept = {name: value for name, value in {**usual, **claims}.items() if value is not ...}
    return bearer(jwt.encode(kept, secret, "HS256", {"typ": typ, "kid": kid or key_id(SECRET)}))


async def outcome(api: httpx2.AsyncClient, headers: dict[str, str]) -> tuple[int, str]:
    response = await check(api, HASH, headers=headers)
    return response.status_code, "" if response.status_code == 200 else error_code(response)


async def logged_users(engine: AsyncEngine) -> set[str | None]:
    async with engine.connect() as connection:
        return set((await connection.scalars(select(RequestLog.user_id))).all())


async def test_a_token_says_what_was_asked_for(api: httpx2.AsyncClient) -> None:
    before = int(time.time())
    response = await api.post(
        "/tokens",
        json={"device_id": " device-1 ", "scope": "classify", "new_photos_per_day": 20, "expires_in": 600},
        headers=ADMIN,
    )
    assert response.headers["Cache-Control"] == "no-store"
    data = response.json()["data"]
    token = data.pop("token")
    expires_at = datetime.fromisoformat(data.pop("expires_at"))
    assert before + 600 <= expires_at.timestamp() <= time.time() + 600
    assert data == {
        "token_type": "Bearer",
        "device_id": "device-1",
        "scope": "classify",
        "new_photos_per_day": 20,
        "expires_in": 600,
    }
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "device+jwt", "kid": key_id(SECRET)}
    # The usual ones.
    usual = await issued(api)
    assert (usual["expires_in"], usual["new_photos_per_day"]) == (3600, None)


async def test_an_issued_token_is_in_the_audit_log_without_its_text(
    api: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    lines: list[str] = []
    number = logger.add(lines.append, format="{message}")
    token = (await issued(api, expires_in=600, new_photos_per_day=3))["token"]
    logger.remove(number)
    assert await entries(engine) == [("device_token.issued", "ADMIN_API_KEY", "device-1", "127.0.0.1")]
    assert await details_of(engine) == [{"new_photos_per_day": 3, "expires_in": 600}]
    assert any("device_token.issued" in line for line in lines)
    assert token.rpartition(".")[2] not in "".join(lines)
    # Its device is exported, and forgotten there, too.
    address = "/users/device-1/data"
    event = (await api.get(address, headers=ADMIN)).json()["data"]["events"][0]
    assert event["action"] == "device_token.issued"
    assert (await api.delete(address, headers=ADMIN)).status_code == 200
    assert {entry[2] for entry in await entries(engine)} == {None}


async def test_wrong_device_tokens_are_slowed_like_wrong_keys(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(throttle.FREE_FAILURES, throttle.Subject.KEY_ADDRESS, 2)
    right = bearer((await issued(api))["token"])
    assert await outcome(api, forged("a guess that is long enough for a key")) == (401, "invalid_token")
    assert await outcome(api, forged(kid="x")) == (401, "invalid_token")
    assert await outcome(api, forged("another guess of the same length")) == (429, "too_many_wrong_keys")
    assert await outcome(api, right) == (200, "")
    # It was one of ours, and is no guess.
    assert await outcome(api, forged(exp=datetime.now(UTC) - timedelta(seconds=9))) == (401, "token_expired")


async def test_who_may_issue_tokens(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    device = (await issued(api))["token"]
    body = {"device_id": "device-1"}
    wrong = (401, "invalid_api_key")
    for headers, expected in (
        ({}, (401, "api_key_required")),
        ({"Authorization": "Bearer wrong"}, wrong),
        (bearer(device), wrong),
    ):
        response = await api.post("/tokens", json=body, headers=headers)
        assert (response.status_code, error_code(response)) == expected
    for scopes, status in (("classify", 403), ("classify,stats", 403), ("classify,admin", 200)):
        key = await known_key(api, engine, scopes=scopes)
        response = await api.send(sign(api.build_request("POST", "/tokens", json=body), key))
        assert response.status_code == status, scopes


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"device_id": ""},
        {"device_id": "   "},
        {"device_id": "x" * 65},
        {"device_id": "account:5"},
        {"device_id": "a\nb"},
        {"device_id": 5},
        {"device_id": "d", "scope": "admin"},
        {"device_id": "d", "scope": "classify admin"},
        {"device_id": "d", "new_photos_per_day": -1},
        {"device_id": "d", "new_photos_per_day": 1.5},
        {"device_id": "d", "expires_in": 59},
        {"device_id": "d", "expires_in": 30 * 24 * 3600 + 1},
        {"device_id": "d", "expires_in": None},
    ],
)
async def test_what_no_token_is_issued_for(api: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    response = await api.post("/tokens", json=body, headers=ADMIN)
    assert (response.status_code, error_code(response)) == (400, "invalid_request")


async def test_the_device_is_who_its_token_says(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    headers = {**bearer((await issued(api))["token"]), "X-User-ID": "another"}
    data = photo(1)
    assert (await upload(api, data, headers=headers)).status_code == 200
    assert (await api.post("/classify/batch", files=[("image", photo(2))], headers=headers)).status_code == 200
    for path, body in (
        ("/classify/check-cache", {"image_hash": sha256(data), "user_id": "another"}),
        ("/classify/check-cache/batch", {"image_hashes": [sha256(data)], "user_id": "another"}),
    ):
        # A browser's question takes the other way through the service.
        for origin in ({}, {"Origin": "https://app.example"}):
            assert (await api.post(path, json=body, headers={**headers, **origin})).status_code == 200
    # A header that is no user id at all counts for nothing, too.
    assert (await check(api, sha256(data), headers={**headers, "X-User-ID": "x" * 100})).status_code == 200
    assert await logged_users(engine) == {"device-1"}


INVALID = (401, "invalid_token")


async def test_tokens_that_do_not_count(api: httpx2.AsyncClient) -> None:
    now = datetime.now(UTC)
    assert await outcome(api, forged()) == (200, "")
    for headers in (
        forged(secret="another secret that is long enough"),
        forged(kid="0123456789abcdef"),
        forged(aud=...),
        forged(aud="image-classifier"),
        forged(aud=["image-classifier:device", "other"]),
        forged(scope="admin"),
        forged(scope=...),
        forged(sub=...),
        forged(sub=5),
        forged(sub=""),
        forged(sub="x" * 65),
        forged(jti=...),
        forged(exp=...),
        forged(exp="never"),
        forged(nbf=now + timedelta(hours=1)),
        forged(new_photos_per_day="many"),
        forged(new_photos_per_day=True),
        forged(new_photos_per_day=...),
        forged(api_key_id=...),
        forged(api_key_id=999),
    ):
        assert await outcome(api, headers) == INVALID, headers
    late = forged(exp=now - timedelta(seconds=1))
    assert await outcome(api, late) == (401, "token_expired")
    # A web page may read it, and ask for another.
    response = await check(api, HASH, headers={**late, "Origin": "https://app.example"})
    assert (error_code(response), response.headers["Access-Control-Allow-Origin"]) == ("token_expired", "*")


async def test_a_token_whose_algorithm_is_none(api: httpx2.AsyncClient) -> None:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = jwt.decode(forged()["Authorization"].split()[1], options={"verify_signature": False})
    for algorithm in ("none", "None", "HS512"):
        header = part({"alg": algorithm, "typ": "device+jwt", "kid": key_id(SECRET)})
        assert await outcome(api, bearer(f"{header}.{part(claims)}.")) == INVALID
    deep = part({"typ": "device+jwt"})[:-2] + base64.urlsafe_b64encode(b"[" * 2900).decode()
    assert (await check(api, HASH, headers=bearer(f"{deep}.e30.x"))).status_code < 500


async def test_neither_kind_of_token_stands_for_the_other(api: httpx2.AsyncClient) -> None:
    root = str(api.base_url).removesuffix("/api/v1/").removesuffix("/api/v1")
    async with httpx2.AsyncClient(base_url=root, timeout=120) as service:
        await sign_up(service)
        account = await log_in(service)
        device = (await issued(api, device_id="1"))["token"]
        answer = await service.get("/users/me", headers=bearer(device))
        assert (answer.status_code, error_code(answer)) == INVALID
        # Nor where it says what it is not.
        claims = jwt.decode(account, options={"verify_signature": False})
        for typ in ("JWT", "device+jwt"):
            both = {**claims, "aud": "image-classifier:device", "scope": "classify"}
            text = jwt.encode(both, SECRET, "HS256", {"typ": typ, "kid": key_id(SECRET)})
            assert (await service.get("/users/me", headers=bearer(text))).status_code == 401
        text = jwt.encode(claims, SECRET, "HS256", {"typ": "device+jwt", "kid": key_id(SECRET)})
        assert await outcome(api, bearer(text)) == INVALID


async def test_a_token_ends_with_the_key_that_it_was_issued_with(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    async def token_of(key: Key) -> dict[str, str]:
        request = sign(api.build_request("POST", "/tokens", json={"device_id": "device-1"}), key)
        return bearer((await api.send(request)).raise_for_status().json()["data"]["token"])

    key, other = await known_key(api, engine, scopes="admin"), await known_key(api, engine, scopes="admin")
    headers, others = await token_of(key), await token_of(other)
    assert await outcome(api, headers) == (200, "")
    async with engine.begin() as connection:
        await connection.execute(update(ApiKey).where(ApiKey.id == key.id).values(revoked_at=utc_now()))
    async with asyncio.timeout(60):
        # Every process knows within two seconds.
        while await outcome(api, headers) == (200, ""):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await outcome(api, headers) == INVALID
    assert await outcome(api, others) == (200, "")


async def test_a_device_token_opens_nothing_else(api: httpx2.AsyncClient) -> None:
    headers = bearer((await issued(api))["token"])
    for method, path in (("PUT", f"/cache/{HASH}"), ("DELETE", f"/cache/{HASH}"), ("POST", "/tokens")):
        response = await api.request(method, path, json={"category": "pets", "device_id": "d"}, headers=headers)
        assert (response.status_code, error_code(response)) == (401, "invalid_api_key"), path


async def test_the_limit_of_new_photos_is_kept(api: httpx2.AsyncClient, model_server: FakeModelServer) -> None:
    async def codes(headers: dict[str, str], *numbers: int) -> list[str]:
        answers = [await upload(api, photo(number), headers=headers) for number in numbers]
        return ["" if answer.status_code == 200 else error_code(answer) for answer in answers]

    two = bearer((await issued(api, new_photos_per_day=2))["token"])
    # Others who say that they are this device use nothing of it up.
    assert await codes({"X-User-ID": "device-1"}, 1) == [""]
    assert await codes(two, 1, 2, 2, 3) == ["", "", "", ""]
    # What is known costs nothing; a user id of one's own, or a new token, is no way out.
    again = bearer((await issued(api, new_photos_per_day=2))["token"])
    assert await codes({**two, "X-User-ID": "another"}, 4, 3) == ["user_limit", ""]
    assert await codes(again, 4) == ["user_limit"]
    batch = await api.post("/classify/batch", files=[("image", photo(5)), ("image", photo(1))], headers=two)
    assert [item["success"] for item in batch.json()["results"]] == [False, True]
    other = bearer((await issued(api, device_id="device-2", new_photos_per_day=1))["token"])
    assert await codes(other, 4, 5) == ["", "user_limit"]
    nothing = bearer((await issued(api, device_id="device-3", new_photos_per_day=0))["token"])
    assert await codes(nothing, 4, 5) == ["", "user_limit"]
    assert model_server.call_count == 4


async def test_many_new_photos_at_once_do_not_outrun_the_limit(
    api: httpx2.AsyncClient, model_server: FakeModelServer
) -> None:
    headers = bearer((await issued(api, new_photos_per_day=3))["token"])
    answers = await asyncio.gather(*(upload(api, photo(number), headers=headers) for number in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 17
    assert model_server.call_count == 3
