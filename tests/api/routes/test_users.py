"""Accounts over HTTP: sign-up, log-in, one's own account, and every way a token can be wrong."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin

import httpx2
import jwt
import pytest

from app.clock import utc_now
from app.services.throttle import FREE_FAILURES, Subject
from tests.support.people import USER, bearer, code, log_in, sign_up

JSON = {"Content-Type": "application/json"}


async def test_sign_up_log_in_and_see_oneself(service: httpx2.AsyncClient) -> None:
    user = await sign_up(service)
    assert user == {
        "id": user["id"],
        "username": "testuser",
        "email": "test@example.com",
        "created_at": user["created_at"],
    }
    answer = await service.post("/users/token", data={"username": "testuser", "password": USER["password"]})
    body = answer.json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "expires_at"}
    assert body["token_type"] == "bearer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await service.get("/users/me", headers=bearer(body["access_token"]))).json() == user


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"email": "other@example.com"}, "username_taken"),
        ({"email": "other@example.com", "username": "TestUser"}, "username_taken"),
        ({"email": "other@example.com", "username": "ｔｅｓｔｕｓｅｒ"}, "username_taken"),
        ({"username": "other"}, "email_taken"),
        ({"username": "other", "email": "TEST@example.com"}, "email_taken"),
    ],
)
async def test_what_is_taken_is_told(service: httpx2.AsyncClient, changes: dict[str, str], expected: str) -> None:
    await sign_up(service)
    assert code(await service.post("/users/", json=USER | changes)) == (409, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"username": ""},
        {"username": "a"},
        {"username": "a b"},
        {"username": "../../etc"},
        {"username": "a" * 33},
        {"username": "\ud800"},
        # Seen as "testuser".
        {"username": "testuser\u3164"},
        {"username": "test\ufe0fuser"},
        {"username": "\u0301ab"},
        # Each is three characters in the form that is kept.
        {"username": "\ufb2c" * 32},
        {"email": "nobody"},
        {"email": "a@b"},
        {"email": f"{'a' * 300}@example.com"},
        # Not too long as it stands; but in lower case, as it is compared, each of these letters is three.
        {"email": f"{chr(0x390) * 60}@{'a' * 60}.{'b' * 55}.com"},
        {"password": "short"},
        {"password": "a" * 257},
        {"password": "\ud800" * 8},
        {"password": None},
    ],
)
async def test_what_is_no_account_is_refused(service: httpx2.AsyncClient, changes: dict[str, Any]) -> None:
    # As ASCII with escapes, in which a lone surrogate can be said.
    answer = await service.post("/users/", content=json.dumps(USER | changes), headers=JSON)
    assert answer.status_code == 400, answer.text
    assert "testpassword123" not in answer.text


async def test_names_of_other_languages(service: httpx2.AsyncClient) -> None:
    await sign_up(service, username="小明_2026")
    await sign_up(service, username="Ünsal", email="u@example.com")
    await sign_up(service, username="हिन्दी", email="h@example.com")
    await sign_up(service, username="ภาษาไทย", email="t@example.com")
    assert await log_in(service, "小明_2026")
    assert await log_in(service, "हिन्दी")
    assert await log_in(service, "ünsal")


async def test_one_of_many_gets_a_name(service: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(service.post("/users/", json=USER | {"email": f"user{number}@example.com"}) for number in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


async def test_a_wrong_password_and_an_unknown_name_look_the_same(service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    wrong = await service.post("/users/token", data={"username": "testuser", "password": "wrong"})
    unknown = await service.post("/users/token", data={"username": "nobody", "password": "wrong"})
    assert code(wrong) == code(unknown) == (401, "login_failed")
    assert wrong.json()["error"] == unknown.json()["error"]
    assert wrong.headers["WWW-Authenticate"] == "Bearer"


async def test_guessing_is_slow(service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    free = FREE_FAILURES[Subject.ACCOUNT]
    guesses = [
        await service.post("/users/token", data={"username": "TESTUSER", "password": "no"}) for _ in range(free + 1)
    ]
    assert [answer.status_code for answer in guesses[:free]] == [401] * free
    assert code(guesses[-1]) == (429, "too_many_logins")
    assert int(guesses[-1].headers["Retry-After"]) >= 1
    # The right password has to wait as well; another account does not.
    assert (await service.post("/users/token", data=USER)).status_code == 429
    await sign_up(service, username="other", email="other@example.com")
    assert await log_in(service, "other")


@pytest.mark.parametrize("encoding", ["unicode_escape", "utf-7", "no-such-encoding"])
async def test_a_form_in_an_odd_encoding_is_a_failed_log_in(service: httpx2.AsyncClient, encoding: str) -> None:
    # Lone surrogates, in the first two of these.
    text = "+2AA-" if encoding == "utf-7" else "\\ud800"
    parts = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{text}\r\n' for field in ("username", "password")
    )
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={encoding}"}
    answer = await service.post("/users/token", headers=headers, content=f"{parts}--b--\r\n")
    assert code(answer) == (401, "login_failed")


async def test_guesses_at_the_same_time_do_not_outrun_the_count(
    service: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next one may not come while the test runs, however slow the machine is.
    monkeypatch.setattr("app.services.throttle.FIRST_PAUSE_SECONDS", 60.0)
    answers = await asyncio.gather(
        *(service.post("/users/token", data={"username": "testuser", "password": "no"}) for _ in range(20))
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(401) <= FREE_FAILURES[Subject.ACCOUNT] + 1
    assert statuses.count(401) + statuses.count(429) == 20


async def test_a_success_makes_good(service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    for _ in range(3):
        for _ in range(3):
            await service.post("/users/token", data={"username": "testuser", "password": "no"})
        assert await log_in(service)


async def test_changes(service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    await sign_up(service, username="other", email="other@example.com")
    headers = bearer(await log_in(service))
    changed = await service.put("/users/me", headers=headers, json={"username": "renamed"})
    assert changed.json()["username"] == "renamed"
    assert changed.json()["email"] == "test@example.com"
    assert code(await service.put("/users/me", headers=headers, json={"username": "OTHER"})) == (409, "username_taken")
    assert code(await service.put("/users/me", headers=headers, json={"email": "other@example.com"})) == (
        409,
        "email_taken",
    )
    # One's own name in other letters is no clash.
    assert (await service.put("/users/me", headers=headers, json={"username": "ReNamed"})).status_code == 200
    assert (await service.put("/users/me", headers=headers, json={})).json()["username"] == "ReNamed"


async def test_a_new_password_ends_all_tokens(service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    tokens = [await log_in(service), await log_in(service)]
    answer = await service.put("/users/me", headers=bearer(tokens[0]), json={"password": "another password"})
    assert answer.status_code == 200
    for token in tokens:
        assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")
    assert (await service.post("/users/token", data=USER)).status_code == 401
    assert await log_in(service, password="another password")


async def test_a_deleted_account_is_gone(service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    token = await log_in(service)
    assert (await service.delete("/users/me", headers=bearer(token))).status_code == 204
    assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")
    assert (await service.post("/users/token", data=USER)).status_code == 401
    # The next account is another person's, in SQLite too, which likes to give an id out again.
    await sign_up(service)
    assert code(await service.get("/users/me", headers=bearer(token))) == (401, "invalid_token")


async def test_tokens_that_do_not_count(service: httpx2.AsyncClient) -> None:
    await sign_up(service)
    good = await log_in(service)
    claims = jwt.decode(good, options={"verify_signature": False})
    now = utc_now()
    forged = {
        "none": jwt.encode(claims, "", algorithm="none"),
        "another key": jwt.encode(claims, "k" * 32, algorithm="HS256"),
        "another algorithm": jwt.encode(claims, "k" * 64, algorithm="HS512"),
        "changed": good[:-3] + ("aaa" if good[-3:] != "aaa" else "bbb"),
        "not one": "nothing",
        "long": "a" * 10_000,
    }
    for token in forged.values():
        answer = await service.get("/users/me", headers=bearer(token))
        assert answer.status_code == 401
        assert token not in answer.text
    assert code(await service.get("/users/me")) == (401, "authentication_required")
    assert (await service.get("/users/me", headers={"Authorization": "Basic eDp5"})).status_code == 401
    assert claims["exp"] - claims["iat"] == timedelta(days=1).total_seconds()
    assert abs(claims["iat"] - now.timestamp()) < 60


async def test_the_authorize_button_finds_the_log_in(service: httpx2.AsyncClient) -> None:
    schemes = (await service.get("/openapi.json")).json()["components"]["securitySchemes"]
    address = schemes["Account"]["flows"]["password"]["tokenUrl"]
    # As Swagger UI resolves it, against the page.
    assert urljoin("http://host/docs", address) == "http://host/users/token"
    assert urljoin("http://host/prefix/docs", address) == "http://host/prefix/users/token"
