"""Feedback over HTTP: what is refused, who counts as whom, and that the entry is corrected for all."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.feedback import FeedbackSettings
from app.config.settings import CacheSettings, Settings
from app.main import create_app
from app.services.api_keys.key import Scope
from tests.support.classify import check, error_code, photo, sha256, upload
from tests.support.keys import ADMIN_API_KEY, key_of
from tests.support.people import sign_up
from tests.support.serving import serving

UNKNOWN = "0" * 64
ADMIN = {"Authorization": f"Bearer {ADMIN_API_KEY}"}
PHOTO = photo(1)
HASH = sha256(PHOTO)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With an admin key, and a quorum of two."""
    changes: dict[str, Any] = {
        "cache": CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY}),
        "feedback": FeedbackSettings.model_validate({"quorum": 2, "per_minute_per_address": 40}),
        "forwarded_allow_ips": "*",
    }
    return settings.model_copy(update=changes)


async def say(api: httpx2.AsyncClient, category: str, user: str | None = None, **more: Any) -> dict[str, Any]:
    headers = more.pop("headers", {}) | ({} if user is None else {"X-User-ID": user})
    answer = await api.post("/feedback", json={"category": category, "image_hash": HASH, **more}, headers=headers)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def corrections(api: httpx2.AsyncClient) -> float:
    """How many entries the users of this process have corrected, other tests' too."""
    [value] = re.findall(
        r'^image_classifier_corrections_total{action="corrected",by="users"} (.+)$',
        (await api.get("../../metrics")).text,
        re.MULTILINE,
    )
    return float(value)


async def test_what_is_refused(api: httpx2.AsyncClient) -> None:
    await upload(api, PHOTO)
    for body, code in (
        ({}, "invalid_request"),
        ({"category": "foods"}, "invalid_request"),
        ({"category": "cats", "image_hash": HASH}, "invalid_request"),
        ({"category": "foods", "image_hash": "abc"}, "invalid_request"),
        ({"category": "foods", "image_hash": HASH, "comment": "x" * 501}, "invalid_request"),
        ({"category": "foods", "image_hash": HASH, "coment": "a slip"}, "invalid_request"),
        ({"category": "foods", "image_hash": HASH, "user_id": "account:1"}, "invalid_request"),
        ({"category": "foods", "image_hash": UNKNOWN}, "cache_entry_not_found"),
        ({"category": "foods", "request_id": "req_0_0"}, "request_not_found"),
    ):
        answer = await api.post("/feedback", json=body)
        assert (answer.status_code, error_code(answer)) == (404 if "not_found" in code else 400, code), body


async def test_one_address_never_corrects_an_entry(api: httpx2.AsyncClient) -> None:
    request_id = (await upload(api, PHOTO)).json()["request_id"]
    answer = await api.post("/feedback", json={"category": "foods", "request_id": request_id, "user_id": "ann"})
    assert answer.json() == {"success": True, "data": {"replaced": False, "agrees": False, "corrected": False}}
    assert (await say(api, "foods", "ann", comment="a\u202e soup"))["replaced"] is True
    for number in range(10):
        assert (await say(api, "foods", f"invented-{number}"))["corrected"] is False
    assert (await check(api, HASH)).json()["model"] == "test-vision"
    listed = (await api.get("/review/entries", params={"disputed": True}, headers=ADMIN)).json()["data"]["entries"]
    assert [each["opinions"] for each in listed] == [[{"category": "foods", "voters": 1}]]
    details = (await api.get(f"/review/entries/{HASH}", headers=ADMIN)).json()["data"]
    assert [each["text"] for each in details["comments"]] == ["a soup"]
    export = (await api.get("/users/ann/data", headers=ADMIN)).json()["data"]["feedback"]
    assert [(row["category"], row["comment"]) for row in export] == [("foods", "a soup")]


async def test_accounts_and_devices_are_counted_from_one_address(api: httpx2.AsyncClient) -> None:
    await upload(api, PHOTO)
    before = await corrections(api)
    root = httpx2.AsyncClient(base_url=str(api.base_url).removesuffix("/api/v1/"), timeout=120)
    async with root as service:
        user = await sign_up(service)
        form = {"username": user["username"], "password": "testpassword123"}
        token = (await service.post("/users/token", data=form)).json()["access_token"]
    issued = await api.post("/tokens", json={"device_id": "phone-1"}, headers=ADMIN)
    device = issued.json()["data"]["token"]
    account = {"Authorization": f"Bearer {token}"}
    assert (await say(api, "foods", "someone else", headers=account))["corrected"] is False
    # The account is who it is, whatever the header says.
    assert (await say(api, "foods", "another", headers=account))["replaced"] is True
    assert (await say(api, "foods", headers={"Authorization": f"Bearer {device}"}))["corrected"] is True
    answer = (await check(api, HASH)).json()
    assert (answer["model"], answer["data"]) == (
        "feedback",
        {"category": "foods", "confidence": 1.0, "description": None},
    )
    assert (await upload(api, PHOTO)).json()["from_cache"] is True
    shown = (await api.get("/stats/accuracy", headers=ADMIN)).json()["data"]
    assert [(each["model"], each["category"], each["photos"], each["right"]) for each in shown] == [
        ("test-vision", None, 1, 0),
        ("test-vision", "pets", 1, 0),
    ]
    assert (await api.get("/stats/accuracy?from=2025-01-01&to=2025-01-02", headers=ADMIN)).json()["data"] == []
    assert await corrections(api) == before + 1


async def test_a_key_counts_as_one_however_many_users_it_names(settings: Settings, engine: AsyncEngine) -> None:
    keys = [(await key_of(engine, Scope.CLASSIFY)).text for _ in range(2)]
    async with serving(create_app(settings)) as url, httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api:
        one, other = ({"X-API-Key": key} for key in keys)
        await upload(api, PHOTO, headers=one)
        assert (await api.post("/feedback", json={"category": "foods", "image_hash": HASH})).status_code == 401
        for number in range(50):
            # Not limited by its address.
            assert (await say(api, "foods", f"user-{number}", headers=one))["corrected"] is False
        assert (await say(api, "foods", "user-1", headers=other))["corrected"] is True


@pytest.fixture
async def few(settings: Settings, engine: AsyncEngine) -> AsyncIterator[httpx2.AsyncClient]:
    feedback = FeedbackSettings.model_validate({"per_minute_per_address": 2})
    app = create_app(settings.model_copy(update={"feedback": feedback}))
    async with serving(app) as url, httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client:
        yield client


async def test_an_address_may_send_so_much_a_minute(few: httpx2.AsyncClient) -> None:
    await upload(few, PHOTO)
    for number in range(2):
        await say(few, "foods", f"user-{number}")
    answer = await few.post("/feedback", json={"category": "foods", "image_hash": HASH})
    assert (answer.status_code, error_code(answer)) == (429, "rate_limited")
    assert answer.json()["error"]["details"] == {"per_minute": 2}
