"""The whole flow over HTTP: ask with a hash, upload on a miss, ask again; what is counted, logged and refused."""

import asyncio
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.tables.request_log import RequestLog
from app.main import create_app
from tests.fakes.model_replies import CATEGORY, CONFIDENCE, DESCRIPTION, classification, failure
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import MISS, check, error_code, hit_count, photo, sha256, upload
from tests.support.serving import serving

DATA = {"category": CATEGORY, "confidence": CONFIDENCE, "description": DESCRIPTION, "description_language": "zh"}


async def log_rows(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(RequestLog).order_by(RequestLog.id))).all())


async def test_miss_upload_hit(api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer) -> None:
    data = photo(1)
    headers = {"X-User-ID": "device-1"}

    first = await check(api, sha256(data), headers=headers)
    assert (first.status_code, first.json()) == (200, MISS)
    assert await log_rows(engine) == []

    second = await upload(api, data, data={"image_hash": sha256(data).upper()}, headers=headers)
    answer = second.json()
    assert second.status_code == 200
    assert second.headers["X-Request-ID"] == answer["request_id"]
    assert (answer["success"], answer["data"], answer["from_cache"]) == (True, DATA, False)
    assert answer["model"] == "test-vision"
    assert answer["processing_time_ms"] >= 0

    third = (await check(api, sha256(data).upper(), headers=headers)).json()
    assert (third["cached"], third["from_cache"], third["data"]) == (True, True, DATA)
    fourth = (await upload(api, data)).json()
    assert (fourth["from_cache"], fourth["data"]) == (True, DATA)
    assert third["model"] == fourth["model"] == "test-vision"

    assert model_server.call_count == 1
    assert model_server.violations == []
    assert await hit_count(engine, sha256(data)) == 3
    rows = await log_rows(engine)
    assert [row.request_id for row in rows] == [answer["request_id"], third["request_id"], fourth["request_id"]]
    assert [row.from_cache for row in rows] == [0, 1, 1]
    assert {row.model for row in rows} == {"test-vision"}
    assert [row.image_size for row in rows] == [len(data), None, len(data)]
    assert [row.user_id for row in rows] == ["device-1", "device-1", None]
    assert {row.ip_address for row in rows} == {"127.0.0.1"}
    assert {row.image_hash for row in rows} == {sha256(data)}

    logged = (await api.get(f"/requests/{third['request_id']}")).json()["data"]
    assert logged["image_hash"] == sha256(data)
    assert (logged["user_id"], logged["from_cache"], logged["category"]) == ("device-1", True, CATEGORY)
    assert logged["model"] == "test-vision"


async def test_header_wins_over_body_and_body_counts_alone(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    data = photo(2)
    await upload(api, data)
    body = {"image_hash": sha256(data), "user_id": "from-body"}
    await api.post("/classify/check-cache", json=body, headers={"X-User-ID": "from-header"})
    await api.post("/classify/check-cache", json=body)
    await api.post("/classify/check-cache", json=body, headers={"X-User-ID": ""})
    await api.post("/classify/check-cache", json=body, headers={b"X-User-ID": "设备".encode()})
    # Space around it does not make another user.
    await api.post("/classify/check-cache", json={**body, "user_id": " from-body\u3000 "})
    users = [None, "from-header", "from-body", "from-body", "设备", "from-body"]
    assert [row.user_id for row in await log_rows(engine)] == users


async def test_batch_of_hashes(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    known, unknown = photo(3), "f" * 64
    await upload(api, known)
    hashes = [unknown, sha256(known), sha256(known).upper(), unknown]
    response = await api.post("/classify/check-cache/batch", json={"image_hashes": hashes, "user_id": "album"})
    results = response.json()["results"]
    assert [result["cached"] for result in results] == [False, True, True, False]
    assert results[0] == MISS
    assert (results[1]["data"], results[1]["model"]) == (DATA, "test-vision")
    rows = await log_rows(engine)
    assert [row.request_id for row in rows[1:]] == [results[1]["request_id"], results[2]["request_id"]]
    assert [row.user_id for row in rows[1:]] == ["album", "album"]
    assert await hit_count(engine, sha256(known)) == 3

    full = await api.post("/classify/check-cache/batch", json={"image_hashes": [sha256(known)] * 500})
    assert len(full.json()["results"]) == 500
    assert await hit_count(engine, sha256(known)) == 503
    for wrong in ([], ["f" * 64] * 501, ["f" * 63], "f" * 64, None):
        refused = await api.post("/classify/check-cache/batch", json={"image_hashes": wrong})
        assert (refused.status_code, error_code(refused)) == (400, "invalid_request")


async def test_batch_of_images_answers_each_on_its_own(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    images = [photo(4), b"not an image", photo(5), photo(4)[:200], photo(4), b"", b"\xff" * (11 * 1024 * 1024)]
    response = await api.post("/classify/batch", files=[("image", (f"{i}.jpg", d)) for i, d in enumerate(images)])
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["success"] for result in results] == [True, False, True, False, True, False, False]
    assert {result["model"] for result in results if result["success"]} == {"test-vision"}
    codes = [result["error"]["code"] for result in results if not result["success"]]
    assert codes == ["unsupported_image_format", "corrupt_image", "unsupported_image_format", "image_too_large"]
    assert len({result["request_id"] for result in results}) == len(images)
    assert model_server.call_count == 2
    assert sorted(row.from_cache for row in await log_rows(engine)) == [0, 0, 1]
    assert await hit_count(engine, sha256(photo(4))) == 2


async def test_batch_with_a_failing_model(api: httpx2.AsyncClient, model_server: FakeModelServer) -> None:
    known = photo(6)
    await upload(api, known)
    model_server.default = failure(401)
    response = await api.post("/classify/batch", files=[("image", ("a.jpg", known)), ("image", ("b.jpg", photo(7)))])
    results = response.json()["results"]
    assert results[0]["data"] == DATA
    assert results[1]["error"]["code"] == "model_authentication_failed"


async def test_batch_limits(api: httpx2.AsyncClient) -> None:
    images = [("image", (f"{i}.jpg", photo(i))) for i in range(21)]
    assert len((await api.post("/classify/batch", files=images[:20])).json()["results"]) == 20
    too_many = await api.post("/classify/batch", files=images)
    assert (too_many.status_code, error_code(too_many)) == (400, "too_many_images")
    none = await api.post("/classify/batch", files={"other": ("a.jpg", photo(1))})
    assert (none.status_code, error_code(none)) == (400, "missing_image")


async def test_the_server_computes_the_hash_itself(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    response = await upload(api, photo(8), data={"image_hash": "a" * 64})
    assert (response.status_code, error_code(response)) == (400, "hash_mismatch")
    malformed = await upload(api, photo(8), data={"image_hash": "not a hash"})
    assert (malformed.status_code, error_code(malformed)) == (400, "invalid_request")
    assert model_server.call_count == 0
    assert (await check(api, "a" * 64)).json() == MISS
    assert await log_rows(engine) == []


async def test_fifty_clients_with_one_new_photo_cost_one_call(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    model_server.delay_seconds = 0.2
    data = photo(9)
    responses = await asyncio.gather(*(upload(api, data) for _ in range(50)))
    assert {response.status_code for response in responses} == {200}
    assert model_server.call_count == 1
    assert sorted(response.json()["from_cache"] for response in responses) == [False] + [True] * 49
    assert await hit_count(engine, sha256(data)) == 50
    assert len(await log_rows(engine)) == 50


async def test_200_concurrent_requests_are_counted_exactly(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    photos = [photo(seed) for seed in range(10, 20)]
    await asyncio.gather(*(upload(api, data) for data in photos))
    responses = await asyncio.gather(
        *(check(api, sha256(photos[i % 10]), headers={"X-User-ID": f"user-{i % 7}"}) for i in range(200))
    )
    assert all(response.json()["cached"] for response in responses)
    assert [await hit_count(engine, sha256(data)) for data in photos] == [21] * 10
    rows = await log_rows(engine)
    assert len(rows) == 210
    assert {row.request_id for row in rows} >= {response.json()["request_id"] for response in responses}
    async with engine.connect() as connection:
        users = await connection.scalar(select(func.count(RequestLog.user_id.distinct())))
    assert users == 7


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (failure(401), 503, "model_authentication_failed"),
        (failure(404, "model_not_found"), 503, "model_not_found"),
        (failure(429, "insufficient_quota"), 503, "model_quota_exhausted"),
        (classification("selfie"), 502, "model_answer_invalid"),
        (classification(confidence=1.7), 502, "model_answer_invalid"),
    ],
)
async def test_a_failing_model_leaves_nothing_behind(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer, reply: Any, status: int, code: str
) -> None:
    model_server.default = reply
    response = await upload(api, photo(21))
    assert (response.status_code, error_code(response)) == (status, code)
    assert str(model_server.api_key) not in response.text
    assert await log_rows(engine) == []
    model_server.default = classification()
    assert (await upload(api, photo(21))).json()["from_cache"] is False


async def test_look_ups_that_are_refused(api: httpx2.AsyncClient) -> None:
    good = "a" * 64
    for body in (
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"{}",
        b'{"image_hash": null}',
        b'{"image_hash": "abc"}',
        f'{{"image_hash": "{good}g"}}'.encode(),
        f'{{"image_hash": "{good}\\n"}}'.encode(),
        f'{{"image_hash": "{good}", "user_id": "{"u" * 65}"}}'.encode(),
        f'{{"image_hash": "{good}", "user_id": "a\\u0000b"}}'.encode(),
        f'{{"image_hash": "{good}", "user_id": "\\ud800"}}'.encode(),
        f'{{"image_hash": "{good}", "user_id": 7}}'.encode(),
        b"[" * 100_000,
    ):
        response = await api.post("/classify/check-cache", content=body, headers={"Content-Type": "application/json"})
        assert (response.status_code, error_code(response)) == (400, "invalid_request"), body[:60]
    large = await api.post("/classify/check-cache", json={"image_hash": good, "padding": "x" * 200_000})
    assert (large.status_code, error_code(large)) == (413, "payload_too_large")

    async def chunks(count: int) -> Any:
        for _ in range(count):
            yield b" " * 1024

    chunked = await api.post("/classify/check-cache", content=chunks(200), headers={"Content-Type": "application/json"})
    assert (chunked.status_code, error_code(chunked)) == (413, "payload_too_large")
    small = await api.post("/classify/check-cache", content=chunks(2), headers={"Content-Type": "application/json"})
    assert (small.status_code, error_code(small)) == (400, "invalid_request")


async def test_log_switched_off_still_counts_hits(settings: Settings, engine: AsyncEngine) -> None:
    statistics = settings.statistics.model_copy(update={"log_enabled": False})
    app = create_app(settings.model_copy(update={"statistics": statistics}))
    async with serving(app) as url, httpx2.AsyncClient(base_url=f"{url}/api/v1") as api:
        data = photo(30)
        await upload(api, data)
        await asyncio.gather(*(check(api, sha256(data)) for _ in range(5)))
    assert await hit_count(engine, sha256(data)) == 6
    assert await log_rows(engine) == []


async def test_a_client_that_hangs_up_does_not_lose_the_paid_answer(
    api: httpx2.AsyncClient, model_server: FakeModelServer
) -> None:
    model_server.delay_seconds = 0.3
    data = photo(31)
    with pytest.raises(httpx2.TimeoutException):
        await upload(api, data, timeout=0.15)
    assert (await upload(api, data)).json()["from_cache"] is True
    assert model_server.call_count == 1


@pytest.mark.parametrize("user_id", ["account:5", "Account:5", "account:"])
async def test_nobody_poses_as_somebody_who_has_signed_in(api: httpx2.AsyncClient, user_id: str) -> None:
    asked = {"image_hash": "0" * 64}
    by_header = await api.post("/classify/check-cache", json=asked, headers={"X-User-ID": user_id})
    by_body = await api.post("/classify/check-cache", json={**asked, "user_id": user_id})
    assert (by_header.status_code, by_body.status_code) == (400, 400)
    assert by_header.json()["error"]["code"] == by_body.json()["error"]["code"] == "invalid_request"
