"""Correcting and removing entries over HTTP: who may, and what it does."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import CacheSettings, Settings
from app.main import create_app
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import MISS, check, error_code, hit_count, photo, sha256, upload
from tests.support.serving import serving

KEY = "an-admin-key-for-tests"
ADMIN = {"Authorization": f"Bearer {KEY}"}
UNKNOWN = "0" * 64
CORRECTION = {"category": "pets", "description": "一只猫"}
CORRECTED = {**CORRECTION, "confidence": 1.0, "model_used": "manual", "confidence_source": "corrected"}


@pytest.fixture
async def admin_api(settings: Settings, engine: AsyncEngine) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a running service that has an admin key."""
    cache = CacheSettings.model_validate({"admin_api_key": KEY})
    async with (
        serving(create_app(settings.model_copy(update={"cache": cache}))) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client,
    ):
        yield client


async def test_a_corrected_entry_is_everybodys_answer(
    admin_api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    data = photo(1)
    first = (await upload(admin_api, data)).json()
    await check(admin_api, sha256(data))
    response = await admin_api.put(f"/cache/{sha256(data).upper()}", json=CORRECTION, headers=ADMIN)
    assert response.status_code == 200
    assert response.json() == {"success": True, "data": CORRECTED}
    expected = {**CORRECTION, "confidence": 1.0, "description_language": "zh"}
    corrected = [(await check(admin_api, sha256(data))).json(), (await upload(admin_api, data)).json()]
    assert [each["data"] for each in corrected] == [expected, expected]
    assert [each["model"] for each in corrected] == ["manual", "manual"]
    # The log says which model it was.
    logged = [
        (await admin_api.get(f"/requests/{each['request_id']}", headers=ADMIN)).json()["data"]["model"]
        for each in (first, *corrected)
    ]
    assert logged == ["test-vision", "manual", "manual"]
    assert model_server.call_count == 1
    assert await hit_count(engine, sha256(data)) == 4
    # What is left out is removed, and invisible characters are not kept.
    for description, kept in ((None, None), (" ", None), ("a\u202eb\n c", "ab c")):
        body = {"category": "foods"} | ({} if description is None else {"description": description})
        await admin_api.put(f"/cache/{sha256(data)}", json=body, headers=ADMIN)
        assert (await check(admin_api, sha256(data))).json()["data"]["description"] == kept


async def test_a_removed_entry_is_asked_for_again(admin_api: httpx2.AsyncClient, model_server: FakeModelServer) -> None:
    data = photo(2)
    await upload(admin_api, data)
    lines: list[str] = []
    number = logger.add(lines.append, format="{message}")
    response = await admin_api.delete(f"/cache/{sha256(data)}", headers=ADMIN)
    logger.remove(number)
    assert (response.status_code, response.json()) == (200, {"success": True, "removed": True})
    assert any(sha256(data) in line and "removed" in line for line in lines)
    assert KEY not in "".join(lines)
    assert (await check(admin_api, sha256(data))).json() == MISS
    assert (await upload(admin_api, data)).json()["from_cache"] is False
    assert model_server.call_count == 2


async def test_only_what_is_there_can_be_changed(admin_api: httpx2.AsyncClient) -> None:
    for response in (
        await admin_api.put(f"/cache/{UNKNOWN}", json=CORRECTION, headers=ADMIN),
        await admin_api.delete(f"/cache/{UNKNOWN}", headers=ADMIN),
    ):
        assert (response.status_code, error_code(response)) == (404, "cache_entry_not_found")


async def test_nobody_else_may(admin_api: httpx2.AsyncClient) -> None:
    data = photo(3)
    await upload(admin_api, data)
    for headers in (
        {},
        {"X-API-Key": f"{KEY}x", **ADMIN},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {b"Authorization": b"Bearer \xff\xfe"},
    ):
        for response in (
            await admin_api.put(f"/cache/{sha256(data)}", json=CORRECTION, headers=headers),
            await admin_api.delete(f"/cache/{sha256(data)}", headers=headers),
            await admin_api.delete("/cache/not-a-hash", headers=headers),
        ):
            is_wrong = any(word in str(headers) for word in ("X-API-Key", "Bearer an", "Bearer AN", "xff"))
            code = "invalid_api_key" if is_wrong else "api_key_required"
            assert (response.status_code, error_code(response)) == (401, code), headers
            assert response.headers["WWW-Authenticate"] == "Bearer"
    assert (await check(admin_api, sha256(data))).json()["cached"] is True


async def test_wrong_requests_are_refused(admin_api: httpx2.AsyncClient) -> None:
    for body in (
        {},
        {"category": "cats"},
        {"category": None},
        {"category": "pets", "description": 7},
        {"category": "pets", "description": "x" * 501},
        {"category": "pets", "descripton": "a slip"},
        {"category": "pets", "confidence": 0.5},
    ):
        response = await admin_api.put(f"/cache/{UNKNOWN}", json=body, headers=ADMIN)
        assert (response.status_code, error_code(response)) == (400, "invalid_request"), body
    response = await admin_api.delete("/cache/not-a-hash", headers=ADMIN)
    assert (response.status_code, error_code(response)) == (400, "invalid_request")


async def test_docs_can_authorize(admin_api: httpx2.AsyncClient) -> None:
    document = (await admin_api.get("../../openapi.json")).json()
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    operations = document["paths"]["/api/v1/cache/{image_hash}"]
    assert set(operations) == {"put", "delete"}
    for operation in operations.values():
        assert operation["security"] == [{"ApiKey": []}]
        assert {"401", "404"} <= set(operation["responses"])


async def test_without_any_key_no_request_may_change_an_entry(api: httpx2.AsyncClient) -> None:
    for headers, code in (({}, "api_key_required"), (ADMIN, "invalid_api_key")):
        for response in (
            await api.put(f"/cache/{UNKNOWN}", json=CORRECTION, headers=headers),
            await api.delete(f"/cache/{UNKNOWN}", headers=headers),
        ):
            assert (response.status_code, error_code(response)) == (401, code)
