"""Signed requests over real HTTP: who is let in, what a copy gets, and a body that is not the signed one."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.settings import Settings
from app.database.tables.accounts import LoginFailure
from app.database.tables.audit import AuditEntry
from app.database.tables.classification import CachedImage
from app.database.tables.request_log import RequestLog
from app.database.tables.signatures import SignatureNonce
from app.main import create_app
from app.services import throttle
from app.services.signatures.nonces import NonceTable
from tests.fakes.model_server import FakeModelServer
from tests.support.audit import details_of, entries
from tests.support.classify import error_code, photo, sha256
from tests.support.serving import serving
from tests.support.signing import COMPONENTS, Key, content_digest, create_key, known_key, sign

CHECK = "/classify/check-cache"


@pytest.fixture(autouse=True)
def _free_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong signatures cost nothing, but for the test that is about it."""
    monkeypatch.setitem(throttle.FREE_FAILURES, throttle.Subject.KEY_ADDRESS, 10_000)


@pytest.fixture
async def key(api: httpx2.AsyncClient, engine: AsyncEngine) -> Key:
    return await known_key(api, engine)


def question(api: httpx2.AsyncClient, **request: Any) -> httpx2.Request:
    return api.build_request("POST", CHECK, json={"image_hash": "0" * 64}, **request)


def form(api: httpx2.AsyncClient, *photos: bytes, path: str = "/classify", **request: Any) -> httpx2.Request:
    return api.build_request("POST", path, files=[("image", data) for data in photos], **request)


async def outcome(api: httpx2.AsyncClient, request: httpx2.Request) -> tuple[int, str]:
    response = await api.send(request)
    return response.status_code, "" if response.status_code == 200 else error_code(response)


async def rows(engine: AsyncEngine, table: Any) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


INVALID = (401, "invalid_signature")
EXPIRED = (401, "signature_expired")


async def test_signed_requests_of_every_kind_are_answered(api: httpx2.AsyncClient, key: Key) -> None:
    by_parts = ["@method", "@authority", "@path", "@query", "content-digest"]
    more = ["@method", "@target-uri", "content-type", "content-digest", "x-user-id"]
    for request in (
        sign(question(api), key),
        sign(question(api), key, components=by_parts),
        sign(question(api), key, parameters={"alg": "hmac-sha256", "expires": int(time.time()) + 60, "tag": "x"}),
        sign(question(api, headers={"X-User-ID": "device-1"}), key, components=more),
        sign(question(api, headers={"X-User-ID": "设备".encode()}), key, components=[*COMPONENTS, "x-user-id;bs"]),
        sign(form(api, photo(1)), key),
        sign(form(api, photo(2), photo(3), path="/classify/batch"), key),
        sign(question(api), key, digest=content_digest(question(api).read(), "sha512")),
        sign(api.build_request("GET", "/categories"), key, components=by_parts[:-1]),
    ):
        response = await api.send(request)
        assert response.status_code == 200, response.text
    odd = await api.send(sign(api.build_request("GET", "/categories", params={"a": "b c", "x": "é/%"}), key))
    assert error_code(odd) == "invalid_request"


async def test_the_key_of_the_signature_is_the_caller(api: httpx2.AsyncClient, key: Key, engine: AsyncEngine) -> None:
    await api.send(sign(form(api, photo(1), headers={"X-User-ID": "device-1"}), key, components=[
        "@method", "@target-uri", "content-digest", "x-user-id",
    ]))  # fmt: skip
    async with engine.connect() as connection:
        assert (await connection.scalars(select(RequestLog.user_id))).all() == ["device-1"]


async def test_wrong_signatures_are_slowed_like_wrong_keys_and_right_ones_are_not(
    api: httpx2.AsyncClient, key: Key, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The question whether the key is known was wrong until it was.
    async with engine.begin() as connection:
        await connection.execute(delete(LoginFailure))
        await connection.execute(delete(AuditEntry))
    monkeypatch.setitem(throttle.FREE_FAILURES, throttle.Subject.KEY_ADDRESS, 3)
    stranger = Key(key.id, "ic_guess")
    for request in (sign(question(api), stranger), question(api, headers={"Signature": "x"})):
        assert await outcome(api, request) == INVALID
    # Another kind of the same thing, from the same address.
    wrong_key = await api.get("/categories", headers={"X-API-Key": "wrong"})
    assert error_code(wrong_key) == "invalid_api_key"
    for request in (sign(question(api), stranger), sign(question(api), Key(999, "ic_guess"))):
        slowed = await api.send(request)
        assert (slowed.status_code, error_code(slowed)) == (429, "too_many_wrong_keys")
        assert int(slowed.headers["Retry-After"]) >= 1
    assert (await api.get("/categories", headers={"X-API-Key": "wrong"})).status_code == 429
    assert await outcome(api, sign(question(api), key)) == (200, "")
    # Right, but late: a client that has the secret does not guess.
    late = {"created": int(time.time()) - 1000}
    assert await outcome(api, sign(question(api), key, parameters=late)) == EXPIRED
    refused = [("key.refused", "anonymous", None, "127.0.0.1")] * 3
    assert await entries(engine) == refused
    assert await details_of(engine) == [{"credential": name} for name in ("signature", "signature", "key")]


async def test_what_a_signature_has_to_cover(api: httpx2.AsyncClient, key: Key) -> None:
    for components in (
        ["@target-uri", "content-digest"],
        ["@method", "content-digest"],
        ["@method", "@authority", "@path", "content-digest"],
        ["@method", "@path", "@query", "content-digest"],
        ["@method", "@target-uri"],
        ["@method", "@target-uri", "content-type"],
    ):
        assert await outcome(api, sign(question(api), key, components=components)) == INVALID, components
    # A device that the signature does not name could be any.
    assert await outcome(api, sign(question(api, headers={"X-User-ID": "device-1"}), key)) == INVALID


@pytest.mark.parametrize(
    "parameters",
    [
        {"created": None},
        {"nonce": None},
        {"nonce": "short"},
        {"nonce": "x" * 129},
        {"keyid": None},
        {"keyid": "999"},
        {"alg": "rsa-v1_5-sha256"},
        {"unknown": 1},
    ],
)
async def test_parameters_that_do_not_do(
    api: httpx2.AsyncClient, key: Key, parameters: Mapping[str, str | int | None]
) -> None:
    assert await outcome(api, sign(question(api), key, parameters=parameters)) == INVALID


async def test_signatures_of_keys_that_do_not_count(api: httpx2.AsyncClient, key: Key, engine: AsyncEngine) -> None:
    stranger = Key(key.id, "not the key")
    assert await outcome(api, sign(question(api), stranger)) == INVALID
    revoked = await create_key(engine, revoked_at=utc_now())
    assert await outcome(api, sign(question(api), revoked)) == INVALID
    expired = await create_key(engine, expires_at=utc_now())
    assert await outcome(api, sign(question(api), expired)) == INVALID


async def test_what_is_changed_on_the_way_is_refused(api: httpx2.AsyncClient, key: Key) -> None:
    def changed(**changes: Any) -> httpx2.Request:
        signed = sign(question(api), key)
        given = {"method": signed.method, "url": signed.url, "headers": signed.headers, "content": signed.content}
        return httpx2.Request(**{**given, **changes})

    signed = sign(question(api), key)
    for request in (
        changed(method="PUT"),
        changed(url=f"{signed.url}?x=1"),
        changed(url=str(signed.url).replace("check-cache", "check-cache/batch")),
        changed(headers={**signed.headers, "host": "other.example"}),
        changed(headers={**signed.headers, "content-digest": content_digest(b"")}),
        changed(headers={k: v for k, v in signed.headers.items() if k != "signature"}),
        changed(headers={k: v for k, v in signed.headers.items() if k != "signature-input"}),
        changed(headers={**signed.headers, "signature": f"{signed.headers['Signature']}, sig2=:aaaa:"}),
    ):
        assert await outcome(api, request) == INVALID, request
    assert await outcome(api, signed) == (200, "")


@pytest.mark.parametrize(
    ("age_seconds", "expected"), [(290, (200, "")), (-290, (200, "")), (310, EXPIRED), (-310, EXPIRED), (1e9, EXPIRED)]
)
async def test_clocks_may_differ_by_five_minutes(
    api: httpx2.AsyncClient, key: Key, age_seconds: float, expected: tuple[int, str]
) -> None:
    created = int(time.time() - age_seconds)
    assert await outcome(api, sign(question(api), key, parameters={"created": created})) == expected


async def test_a_signature_may_end_sooner(api: httpx2.AsyncClient, key: Key) -> None:
    expires = int(time.time()) - 1
    assert await outcome(api, sign(question(api), key, parameters={"expires": expires})) == EXPIRED


async def test_a_copy_is_refused(api: httpx2.AsyncClient, key: Key, engine: AsyncEngine) -> None:
    signed = sign(question(api), key)
    assert await outcome(api, signed) == (200, "")
    assert await outcome(api, signed) == (401, "nonce_reused")
    # Signed anew, it is still the same nonce; another key may have the same.
    nonce = {"nonce": "0123456789abcdef"}
    assert await outcome(api, sign(question(api), key, parameters=nonce)) == (200, "")
    assert await outcome(api, sign(question(api), key, parameters=nonce)) == (401, "nonce_reused")
    assert await outcome(api, sign(question(api), await known_key(api, engine), parameters=nonce)) == (200, "")


async def test_of_many_copies_at_once_one_is_answered(api: httpx2.AsyncClient, key: Key, settings: Settings) -> None:
    """Two services on one database, as two machines would be."""
    async with serving(create_app(settings)) as other_url:
        signed = sign(question(api, headers={"Host": "photos.example"}), key)
        copies = []
        for base in (str(api.base_url), f"{other_url}/api/v1/"):
            copies += [
                httpx2.Request("POST", f"{base.rstrip('/')}{CHECK}", headers=signed.headers, content=signed.read())
                for _ in range(10)
            ]
        outcomes = await asyncio.gather(*(outcome(api, copy) for copy in copies))
    assert sorted(outcomes) == [(200, "")] + [(401, "nonce_reused")] * 19


async def test_a_commit_without_an_answer_is_no_copy(engine: AsyncEngine) -> None:
    nonces, later = NonceTable(engine), int(time.time()) + 600
    assert await nonces.use(1, "n" * 16, request_id="req_1", expires_at=later)
    assert await nonces.use(1, "n" * 16, request_id="req_1", expires_at=later)
    assert not await nonces.use(1, "n" * 16, request_id="req_2", expires_at=later)


async def test_old_nonces_are_deleted(engine: AsyncEngine) -> None:
    nonces, now = NonceTable(engine), int(time.time())
    for number in range(3):
        await nonces.use(number, "n" * 16, request_id="req_1", expires_at=now - 10)
    await nonces.use(3, "n" * 16, request_id="req_1", expires_at=now + 600)
    assert await nonces.delete_expired() == 3
    assert await rows(engine, SignatureNonce) == 1


# ----- bodies


MISMATCH = (400, "digest_mismatch")


async def test_a_body_that_is_not_the_signed_one(
    api: httpx2.AsyncClient, key: Key, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    wrong = content_digest(b"another body")
    for request in (
        question(api),
        form(api, photo(1)),
        form(api, photo(1), photo(2), path="/classify/batch"),
        api.build_request("POST", "/classify/check-cache/batch", json={"image_hashes": ["0" * 64]}),
    ):
        assert await outcome(api, sign(request, key, digest=wrong)) == MISMATCH, request
    assert model_server.call_count == 0
    assert await rows(engine, CachedImage) == 0
    assert await rows(engine, RequestLog) == 0


async def test_one_photo_exchanged_for_another(
    api: httpx2.AsyncClient, key: Key, model_server: FakeModelServer
) -> None:
    """With its own hash in the form, too: the signature knows the whole form."""
    for path, count in (("/classify", 1), ("/classify/batch", 5)):
        photos = [photo(number) for number in range(count)]
        signed = sign(form(api, *photos, path=path), key)
        body = signed.read().replace(photos[-1], photo(99))
        assert body != signed.read()
        headers = {**signed.headers, "content-length": str(len(body))}
        assert await outcome(api, httpx2.Request("POST", signed.url, headers=headers, content=body)) == MISMATCH
    assert model_server.call_count == 0


async def test_digests_that_cannot_be_checked(api: httpx2.AsyncClient, key: Key) -> None:
    for digest in ("md5=:aaaa:", "sha-256", "nothing at all", content_digest(b"")):
        assert await outcome(api, sign(question(api), key, digest=digest)) == MISMATCH, digest
    # Of a request without a body, it is that of no bytes.
    covered = ["@method", "@target-uri", "content-digest"]
    for digest, expected in ((content_digest(b""), (200, "")), (content_digest(b"x"), MISMATCH)):
        request = api.build_request("GET", "/categories", headers={"Content-Digest": digest})
        assert await outcome(api, sign(request, key, components=covered)) == expected


async def test_a_body_of_unknown_length_is_checked_too(api: httpx2.AsyncClient, key: Key) -> None:
    whole = question(api).read()

    async def pieces() -> Any:
        yield whole[:10]
        yield whole[10:]

    for digest, expected in ((content_digest(whole), (200, "")), (content_digest(b""), MISMATCH)):
        headers = {"Content-Digest": digest, "Content-Type": "application/json"}
        signed = sign(api.build_request("POST", CHECK, headers=headers, content=b"-"), key)
        del signed.headers["Content-Length"]
        request = httpx2.Request("POST", signed.url, headers=signed.headers, content=pieces())
        assert await outcome(api, request) == expected


async def test_a_wrong_signature_is_answered_before_the_body_has_arrived(api: httpx2.AsyncClient, key: Key) -> None:
    signed = sign(form(api, photo(1)), Key(key.id, "not the key"))
    lines = [f"POST {signed.url.raw_path.decode()} HTTP/1.1", *(f"{k}: {v}" for k, v in signed.headers.items())]
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert (await asyncio.wait_for(reader.readline(), 60)).split()[1] == b"401"
    writer.close()


async def test_a_photo_streams_though_it_is_signed(api: httpx2.AsyncClient, key: Key) -> None:
    """What is too large is told before the rest of it has arrived, so before the digest is complete."""
    signed = sign(form(api, b"\xff\xd8" + b"x" * (11 * 1024 * 1024)), key)
    lines = [f"POST {signed.url.raw_path.decode()} HTTP/1.1", *(f"{k}: {v}" for k, v in signed.headers.items())]
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    writer.write("\r\n".join([*lines, "", ""]).encode() + signed.read()[: 10 * 1024 * 1024 + 1000])
    assert (await asyncio.wait_for(reader.readline(), 60)).split()[1] == b"413"
    writer.close()


async def test_a_signed_batch_has_an_end_to_what_is_held(
    api: httpx2.AsyncClient, key: Key, model_server: FakeModelServer
) -> None:
    photos = [photo(number) + bytes(9 * 1024 * 1024) for number in range(6)]
    assert await outcome(api, sign(form(api, *photos, path="/classify/batch"), key)) == (413, "payload_too_large")
    assert model_server.call_count == 0


async def test_the_photo_is_answered_like_any_other(
    api: httpx2.AsyncClient, key: Key, model_server: FakeModelServer
) -> None:
    first = (await api.send(sign(form(api, photo(1)), key))).json()
    again = await api.send(sign(api.build_request("POST", CHECK, json={"image_hash": sha256(photo(1))}), key))
    assert (first["from_cache"], again.json()["data"], model_server.call_count) == (False, first["data"], 1)


async def test_a_web_page_may_read_what_is_wrong(
    api: httpx2.AsyncClient, key: Key, model_server: FakeModelServer
) -> None:
    """Its requests have an Origin, and take another way through the service."""
    origin = {"Origin": "https://app.example"}
    signed = sign(question(api, headers=origin), key)
    assert await outcome(api, signed) == (200, "")
    for request, code in (
        (signed, "nonce_reused"),
        (sign(question(api, headers=origin), Key(key.id, "another")), "invalid_signature"),
        (sign(question(api, headers=origin), key, digest=content_digest(b"")), "digest_mismatch"),
        (sign(form(api, photo(1), headers=origin), key, digest=content_digest(b"")), "digest_mismatch"),
    ):
        response = await api.send(request)
        assert error_code(response) == code
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert model_server.call_count == 0


async def test_signatures_of_others_are_no_business_of_ours(api: httpx2.AsyncClient) -> None:
    """Such as those of robots and gateways, on pages."""
    theirs = {"Signature-Input": 'sig=("@authority");created=1;keyid="x";tag="web-bot-auth"', "Signature": "sig=:aaaa:"}
    root = api.base_url.copy_with(path="/health/live")
    assert (await api.get(root, headers=theirs)).status_code == 200
    assert await outcome(api, api.build_request("GET", "/categories", headers=theirs)) == INVALID
