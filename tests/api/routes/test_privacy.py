"""Forgetting and exporting a user over HTTP: who may, odd ids, and that nothing is left."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import CacheSettings, Settings
from app.database.tables.request_log import RequestLog
from app.main import create_app
from app.services.privacy import export
from tests.fakes.model_replies import DESCRIPTION
from tests.support.classify import check, photo, sha256, upload
from tests.support.library_api import person
from tests.support.library_api import upload as add_picture
from tests.support.serving import serving

KEY = "an-admin-key-for-tests"
ADMIN = {"Authorization": f"Bearer {KEY}"}
ODD_IDS = ["phone/1", "a/data", "ä 手机 📱", "50%", "a?b#c&d=e", "' OR 1=1 --", '"<b>', "..."]


@pytest.fixture
async def url(settings: Settings, engine: AsyncEngine) -> AsyncIterator[str]:
    """A running service that has an admin key."""
    cache = CacheSettings.model_validate({"admin_api_key": KEY})
    async with serving(create_app(settings.model_copy(update={"cache": cache}))) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        yield client


def path(user_id: str) -> str:
    return f"/api/v1/users/{quote(user_id, safe='')}/data"


async def exported(client: httpx2.AsyncClient, user_id: str) -> dict[str, Any]:
    answer = await client.get(path(user_id), headers=ADMIN)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert body["success"] is True
    data: dict[str, Any] = body["data"]
    assert data["user_id"] == user_id
    return data


async def use(url: str, user_id: str, times: int = 1) -> None:
    async with httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api:
        headers = [(b"X-User-ID", user_id.encode())]
        for _ in range(times):
            answer = await api.post("/classify", files={"image": ("a.jpg", photo(1), "image/jpeg")}, headers=headers)
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [({}, "api_key_required"), ({"Authorization": "Bearer wrong-admin-key-123"}, "invalid_api_key")],
)
async def test_only_the_admin_may(client: httpx2.AsyncClient, method: str, headers: dict[str, str], code: str) -> None:
    answer = await client.request(method, path("phone-1"), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)


async def test_odd_ids_are_exported_and_forgotten(client: httpx2.AsyncClient, url: str) -> None:
    for user_id in ODD_IDS:
        await use(url, user_id)
    for user_id in ODD_IDS:
        data = await exported(client, user_id)
        assert [row["user_id"] for row in data["requests"]] == [user_id]
        assert [row["visitor"] for row in data["days"]] == [user_id]
        assert data["totals"][0]["requests"] == 1
        answer = await client.delete(path(user_id), headers=ADMIN)
        assert answer.json() == {
            "success": True,
            "data": {"log_rows": 1, "days": 1, "model_calls": len(data["model_calls"])},
        }
        data = await exported(client, user_id)
        assert data["requests"] == data["days"] == data["totals"] == data["model_calls"] == []


async def test_a_long_export_comes_in_pieces(
    client: httpx2.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BATCH_ROWS", 2)
    await use(url, "phone-1", times=5)
    data = await exported(client, "phone-1")
    assert len({row["request_id"] for row in data["requests"]}) == 5


async def test_the_totals_stay(client: httpx2.AsyncClient, url: str) -> None:
    await use(url, "phone-1", times=3)
    before = (await client.get("/api/v1/stats/today", headers=ADMIN)).json()["data"]
    await client.delete(path("phone-1"), headers=ADMIN)
    after = (await client.get("/api/v1/stats/today", headers=ADMIN)).json()["data"]
    assert after == before
    assert before["total_requests"] == 3
    top = (await client.get("/api/v1/stats/users/top", headers=ADMIN)).text
    assert "phone-1" not in top


async def test_an_account_is_exported_without_its_password(client: httpx2.AsyncClient) -> None:
    owner = await person(client)
    account_id = (await client.get("/users/me", headers=owner)).json()["id"]
    image_id = (await add_picture(client, owner)).json()["id"]
    asked = {"image_id": image_id, "model_name": "custom"}
    assert (await client.post("/images/inference", headers=owner, json=asked)).status_code == 200
    data = await exported(client, f"account:{account_id}")
    assert data["account"][0]["username"] == "testuser"
    assert data["results"][0]["description"] == DESCRIPTION
    assert [row["id"] for row in data["images"]] == [image_id]
    assert len(data["requests"]) == len(data["model_calls"]) == 1
    assert "password" not in str(data)


async def test_a_deleted_account_is_in_no_table_and_no_cache(
    client: httpx2.AsyncClient, url: str, engine: AsyncEngine
) -> None:
    owner = await person(client)
    account_id = (await client.get("/users/me", headers=owner)).json()["id"]
    image = photo(7)
    image_id = (await add_picture(client, owner, image)).json()["id"]
    asked = {"image_id": image_id, "model_name": "custom"}
    assert (await client.post("/images/inference", headers=owner, json=asked)).status_code == 200
    assert (await client.delete("/users/me", headers=owner)).status_code == 204
    data = await exported(client, f"account:{account_id}")
    # The audit log keeps what was done with the account, by its number.
    assert "user.deleted" in [event["action"] for event in data.pop("events")]
    assert [value for value in data.values() if isinstance(value, list) and value] == []
    async with engine.connect() as connection:
        logged = (await connection.execute(select(RequestLog.user_id, RequestLog.ip_address))).all()
    assert [tuple(row) for row in logged] == [(None, None)]
    async with httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api:
        assert (await check(api, sha256(image))).json()["cached"] is False
        assert (await upload(api, image)).json()["from_cache"] is False


@pytest.mark.parametrize("user_id", ["x" * 65, "a\nb", "\x00"])
async def test_what_is_no_id(client: httpx2.AsyncClient, user_id: str) -> None:
    for method in ("GET", "DELETE"):
        # A line break is in no path: there is no such address.
        assert (await client.request(method, path(user_id), headers=ADMIN)).status_code in {400, 404}
