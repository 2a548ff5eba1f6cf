"""Requests with an Idempotency-Key over HTTP: the first answer again, counted once, for its caller alone."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import CacheSettings, Settings
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.database.tables.request_log import RequestLog
from app.main import create_app
from app.services.accounts.lifespan import secret_keys
from app.services.device_tokens import DeviceTokenService
from app.services.privacy.service import PrivacyService
from tests.fakes.model_replies import failure
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import MISS, check, error_code, hit_count, photo, sha256, upload
from tests.support.idempotency import check_replay, count_rows, is_replay, kept_of, with_key
from tests.support.keys import ADMIN_API_KEY, key_of
from tests.support.library_api import person
from tests.support.library_api import upload as keep_picture
from tests.support.service_settings import DATABASE_KINDS
from tests.support.serving import serving

pytestmark = pytest.mark.parametrize("database_kind", DATABASE_KINDS[:2], indirect=True, scope="session")


@pytest.fixture
async def other_api(settings: Settings, api: httpx2.AsyncClient) -> AsyncIterator[httpx2.AsyncClient]:
    """Another instance of the same service, with locks, memory and a recorder of its own."""
    async with (
        serving(create_app(settings)) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client,
    ):
        yield client


class _NoKeys:
    """Device tokens are issued without a look at the keys."""

    async def find_by_id(self, _: int) -> None:
        return None

    async def count_wrong(self, *_: str | None) -> None:
        return None


async def ask_later(
    service: httpx2.AsyncClient, headers: dict[str, str], image_id: int, model: str = "default"
) -> httpx2.Response:
    body = {"image_id": image_id, "model_name": model}
    return await service.post("/images/inference/async", json=body, headers=headers)


async def sums(engine: AsyncEngine) -> list[Any]:
    """Requests and hits, as the statistics have them."""
    query = "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(hits), 0) FROM stats_period"
    async with engine.connect() as connection:
        return [int(number) for number in (await connection.execute(text(query))).one()]


async def test_a_repeated_upload_gets_the_first_answer_and_counts_once(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    data, headers = photo(1), with_key(**{"X-User-ID": "phone"})
    first = await upload(api, data, data={"image_hash": sha256(data)}, headers=headers)
    for _ in range(3):
        check_replay(first, await upload(api, data, data={"image_hash": sha256(data)}, headers=headers))
    assert first.json()["from_cache"] is False
    assert model_server.call_count == 1
    assert await hit_count(engine, sha256(data)) == 1
    assert (await count_rows(engine, RequestLog), await sums(engine)) == (1, [1, 0])
    assert (await api.get(f"/requests/{first.json()['request_id']}")).status_code == 200
    # Neither the key nor the photo is kept.
    (kept,) = await kept_of(engine)
    assert headers["Idempotency-Key"] not in str(kept)
    assert (kept.request_id, kept.user_id, kept.body) == (first.json()["request_id"], "phone", first.text)


async def test_a_repeated_hit_is_counted_once_and_a_miss_is_looked_up_again(
    api: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    data, headers = photo(2), with_key()
    assert (await check(api, sha256(data), headers=headers)).json() == MISS
    await upload(api, data)
    first = await check(api, sha256(data), headers=headers)
    assert first.json()["cached"] is True
    check_replay(first, await check(api, sha256(data).upper(), headers=headers))
    assert await hit_count(engine, sha256(data)) == 2
    assert (await count_rows(engine, RequestLog), await sums(engine)) == (2, [2, 1])
    # Without a key, or with another, the same question is another request.
    await check(api, sha256(data))
    await check(api, sha256(data), headers=with_key())
    assert await hit_count(engine, sha256(data)) == 4


async def test_a_batch_of_hashes_is_repeated_as_a_whole(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    known, new = photo(3), photo(4)
    await upload(api, known)
    body = {"image_hashes": [sha256(known), sha256(new), sha256(known)]}
    headers = with_key()
    first = await api.post("/classify/check-cache/batch", json=body, headers=headers)
    assert [each["cached"] for each in first.json()["results"]] == [True, False, True]
    # What the batch did not know becomes known: the repeat is the first answer all the same.
    await upload(api, new)
    check_replay(first, await api.post("/classify/check-cache/batch", json=body, headers=headers))
    assert await hit_count(engine, sha256(known)) == 3
    assert await count_rows(engine, RequestLog) == 4


async def test_a_repeated_upload_to_the_library_keeps_one_picture(
    service: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    token, key = await person(service), with_key()
    first = await keep_picture(service, token | key)
    assert first.status_code == 201
    check_replay(first, await keep_picture(service, token | key))
    assert await count_rows(engine, LibraryImage) == 1
    other_name = await keep_picture(service, token | key, name="other.jpg")
    assert (other_name.status_code, error_code(other_name)) == (409, "idempotency_key_reused")
    assert (await keep_picture(service, token | with_key())).status_code == 201
    assert await count_rows(engine, LibraryImage) == 2
    # With its picture goes what was said of it, and the repeat is a new upload.
    await service.delete(f"/images/{first.json()['id']}", headers=token)
    assert len(await kept_of(engine)) == 1
    again = await keep_picture(service, token | key)
    assert not is_replay(again)
    assert again.json()["id"] != first.json()["id"]


async def test_a_repeated_task_is_one_task(service: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    token, key = await person(service), with_key()
    image = (await keep_picture(service, token)).json()["id"]
    other = (await keep_picture(service, token)).json()["id"]
    first = await ask_later(service, token | key, image)
    assert first.status_code == 202, first.text
    check_replay(first, await ask_later(service, token | key, image))
    assert await count_rows(engine, InferenceTask) == 1
    reused = await ask_later(service, token | key, other)
    assert (reused.status_code, error_code(reused)) == (409, "idempotency_key_reused")
    assert (await ask_later(service, token, image)).json()["task_id"] != first.json()["task_id"]


async def test_the_key_of_another_request_is_refused_and_nothing_is_done(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    data, headers = photo(5), with_key()
    await upload(api, data, headers=headers)
    for answer in (
        await upload(api, photo(6), headers=headers),
        await upload(api, data, data={"image_hash": sha256(data)}, headers=headers),
    ):
        assert (answer.status_code, error_code(answer)) == (409, "idempotency_key_reused")
    assert (model_server.call_count, await count_rows(engine, RequestLog)) == (1, 1)
    # A key belongs to one address.
    assert (await check(api, sha256(data), headers=headers)).json()["cached"] is True
    await upload(api, photo(6))
    hits = await hit_count(engine, sha256(photo(6)))
    reused = await check(api, sha256(photo(6)), headers=headers)
    assert (reused.status_code, error_code(reused)) == (409, "idempotency_key_reused")
    assert await hit_count(engine, sha256(photo(6))) == hits
    # A miss counts nothing, so nothing is compared.
    assert (await check(api, "0" * 64, headers=headers)).json() == MISS


@pytest.mark.parametrize("key", [b"", b"a" * 256, b"two words", "schlüssel".encode(), b"tab\tinside"])
async def test_a_key_that_is_none_is_refused(api: httpx2.AsyncClient, engine: AsyncEngine, key: bytes) -> None:
    for answer in (
        await check(api, "0" * 64, headers={b"Idempotency-Key": key}),
        await upload(api, photo(7), headers={b"Idempotency-Key": key}),
    ):
        assert (answer.status_code, error_code(answer)) == (400, "invalid_idempotency_key")
    assert await count_rows(engine, RequestLog) == 0


async def test_a_key_may_have_255_characters_and_quotes_and_is_sent_once(api: httpx2.AsyncClient) -> None:
    data = photo(8)
    for key in ("a" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!~"):
        check_replay(await upload(api, data, headers=with_key(key)), await upload(api, data, headers=with_key(key)))
    twice = await api.post(
        "/classify/check-cache",
        json={"image_hash": sha256(data)},
        headers=[("Idempotency-Key", "one"), ("Idempotency-Key", "two")],
    )
    assert (twice.status_code, error_code(twice)) == (400, "invalid_idempotency_key")


async def test_errors_are_not_kept(api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer) -> None:
    data, headers = photo(9), with_key()
    model_server.script(failure(401))
    failed = await upload(api, data, headers=headers)
    assert failed.status_code == 503
    assert await kept_of(engine) == []
    first = await upload(api, data, headers=headers)
    assert (first.status_code, is_replay(first)) == (200, False)
    bad = with_key()
    for _ in range(2):
        answer = await upload(api, b"no photo", headers=bad)
        assert (answer.status_code, error_code(answer)) == (400, "unsupported_image_format")
    # Which is no fact about the key.
    assert (await upload(api, photo(10), headers=bad)).status_code == 200


async def test_no_other_caller_gets_the_answer(
    settings: Settings, engine: AsyncEngine, api: httpx2.AsyncClient, service: httpx2.AsyncClient
) -> None:
    data, key = photo(11), "1"
    first = await upload(api, data, headers=with_key(key, **{"X-User-ID": "one"}))
    for headers in (with_key(key), with_key(key, **{"X-User-ID": "two"})):
        answer = await upload(api, data, headers=headers)
        assert not is_replay(answer)
        assert answer.json()["request_id"] != first.json()["request_id"]
        # Nor does it learn that the key is used.
        assert (await check(api, sha256(data), headers=headers)).status_code == 200
    check_replay(first, await upload(api, data, headers=with_key(key, **{"X-User-ID": "one"})))
    # The body names the user where no header does.
    body = {"image_hash": sha256(data), "user_id": "three"}
    hit = await api.post("/classify/check-cache", json=body, headers=with_key("3"))
    check_replay(hit, await api.post("/classify/check-cache", json=body, headers=with_key("3")))
    mine, theirs = await person(service, "mine"), await person(service, "theirs")
    kept = await keep_picture(service, mine | with_key(key))
    other = await keep_picture(service, theirs | with_key(key))
    assert (other.status_code, is_replay(other)) == (201, False)
    assert other.json()["id"] != kept.json()["id"]


async def test_a_key_belongs_to_the_api_key_with_its_user_and_to_the_device_token(
    settings: Settings, engine: AsyncEngine
) -> None:
    one, two = await key_of(engine), await key_of(engine)
    data = photo(18)
    async with (
        serving(create_app(settings)) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api,
    ):
        tokens = DeviceTokenService(secret_keys(settings), _NoKeys())

        def device(name: str, key_id: int) -> dict[str, str]:
            token = tokens.issue(name, new_photos_per_day=None, lifetime=timedelta(hours=1), api_key_id=key_id)
            return {"Authorization": f"Bearer {token.text}"}

        callers = [
            {"X-API-Key": one.text},
            {"X-API-Key": two.text},
            {"X-API-Key": one.text, "X-User-ID": "phone"},
            device("phone", one.id),
            device("other", one.id),
            device("phone", two.id),
        ]
        firsts = [await upload(api, data, headers=with_key("k") | caller) for caller in callers]
        assert not any(map(is_replay, firsts)), [answer.text for answer in firsts]
        for first, caller in zip(firsts, callers, strict=True):
            check_replay(first, await upload(api, data, headers=with_key("k") | caller))
        assert len({answer.json()["request_id"] for answer in firsts}) == len(callers)


async def test_where_a_key_cannot_be_looked_up_memory_answers(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    """As without a key; but each try counts, since the answer could not be kept with the first."""
    data, headers = photo(19), with_key()
    await upload(api, data)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE idempotent_answer RENAME TO answers_away"))
    try:
        hit = await check(api, sha256(data), headers=headers)
        assert hit.json()["cached"] is True
        assert not is_replay(hit)
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE answers_away RENAME TO idempotent_answer"))
    async with asyncio.timeout(60):
        while (await hit_count(engine, sha256(data)) or 0) < 2:  # noqa: ASYNC110 - a replay of the spool tells nothing
            await asyncio.sleep(0.05)
    answered = 0
    async with asyncio.timeout(60):
        # On a busy machine memory answers further tries, too: a look-up of the key takes longer than a hit waits for.
        while not is_replay(await check(api, sha256(data), headers=headers)):
            answered += 1
        assert answered >= 1
        while await hit_count(engine, sha256(data)) != 2 + answered:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


async def test_repeats_at_the_same_time_are_one_request(
    api: httpx2.AsyncClient,
    other_api: httpx2.AsyncClient,
    engine: AsyncEngine,
    model_server: FakeModelServer,
) -> None:
    data, headers = photo(12), with_key()
    # So that all of them are under way before the first is answered.
    model_server.delay_seconds = 0.5
    answers = await asyncio.gather(*(upload(each, data, headers=headers) for each in (api, other_api) * 4))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sorted(map(is_replay, answers)) == [False] + [True] * 7
    assert model_server.call_count == 1
    # One request counts: the one that had the model called, or one of the other instance, which found what it has said.
    hits = int(answers[0].json()["from_cache"])
    assert (await count_rows(engine, RequestLog), await sums(engine)) == (1, [1, hits])
    assert await hit_count(engine, sha256(data)) == 1 + hits


async def test_hits_repeated_at_the_same_time_cost_the_requests_beside_them_nothing(
    api: httpx2.AsyncClient, other_api: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    data = photo(13)
    await upload(api, data)
    keys = [with_key() for _ in range(8)]
    repeated = [(each, key) for key in keys for each in (api, other_api) * 2]
    plain: list[tuple[httpx2.AsyncClient, dict[str, str]]] = [(each, {}) for each in (api, other_api) * 16]
    answers = await asyncio.gather(*(check(each, sha256(data), headers=key) for each, key in [*repeated, *plain]))
    assert {answer.status_code for answer in answers} == {200}
    assert sum(map(is_replay, answers)) == len(repeated) - len(keys)
    assert len({answer.content for answer in answers}) == len(keys) + len(plain)
    assert await count_rows(engine, RequestLog) == 1 + len(keys) + len(plain)
    assert await hit_count(engine, sha256(data)) == 1 + len(keys) + len(plain)


async def test_repeats_at_the_same_time_make_one_picture_and_one_task(
    service: httpx2.AsyncClient, other_api: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    other = httpx2.AsyncClient(base_url=str(other_api.base_url).removesuffix("/api/v1/"), timeout=120)
    async with other:
        token, key = await person(service), with_key()
        pictures = await asyncio.gather(*(keep_picture(each, token | key) for each in (service, other) * 3))
        assert {answer.status_code for answer in pictures} == {201}, [answer.text for answer in pictures]
        assert len({answer.content for answer in pictures}) == 1
        image_id = pictures[0].json()["id"]
        tasks = await asyncio.gather(*(ask_later(each, token | key, image_id) for each in (service, other) * 3))
    assert {answer.status_code for answer in tasks} == {202}, [answer.text for answer in tasks]
    assert len({answer.content for answer in tasks}) == 1
    assert (await count_rows(engine, LibraryImage), await count_rows(engine, InferenceTask)) == (1, 1)


async def test_what_a_person_has_removed_or_corrected_is_not_told_again(
    settings: Settings, engine: AsyncEngine
) -> None:
    cache = CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY})
    settings = settings.model_copy(update={"cache": cache})
    async with (
        serving(create_app(settings)) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api,
    ):
        removed, corrected = photo(14), photo(15)
        api.headers["X-API-Key"] = ADMIN_API_KEY
        keys = [with_key(), with_key()]
        for data, key in zip((removed, corrected), keys, strict=True):
            await upload(api, data)
            assert (await check(api, sha256(data), headers=key)).json()["cached"] is True
        assert (await api.delete(f"/cache/{sha256(removed)}")).status_code == 200
        body = {"category": "foods", "description": "by hand"}
        assert (await api.put(f"/cache/{sha256(corrected)}", json=body)).status_code == 200
        assert (await check(api, sha256(removed), headers=keys[0])).json() == MISS
        answer = await check(api, sha256(corrected), headers=keys[1])
        assert (is_replay(answer), answer.json()["data"]["description"]) == (False, "by hand")


async def test_a_user_that_is_forgotten_leaves_no_answer(
    settings: Settings, engine: AsyncEngine, api: httpx2.AsyncClient, service: httpx2.AsyncClient
) -> None:
    data = photo(16)
    key = with_key("k", **{"X-User-ID": "phone"})
    first = await upload(api, data, headers=key)
    others = await upload(api, data, headers=with_key("k", **{"X-User-ID": "Phone"}))
    token = await person(service)
    picture = (await keep_picture(service, token | with_key())).json()
    await ask_later(service, token | with_key(), picture["id"])
    assert len(await kept_of(engine)) == 4
    assert (await service.request("DELETE", "/users/me", headers=token)).status_code == 204
    assert len(await kept_of(engine)) == 2
    await PrivacyService(engine).forget("phone")
    assert [row.request_id for row in await kept_of(engine)] == [others.json()["request_id"]]
    again = await upload(api, data, headers=key)
    assert (is_replay(again), again.json()["request_id"] == first.json()["request_id"]) == (False, False)


async def test_browsers_may_send_the_key_and_read_that_it_is_a_repeat(settings: Settings, engine: AsyncEngine) -> None:
    settings = settings.model_copy(update={"cors_allowed_origins": ("https://photos.example.com",)})
    async with (
        serving(create_app(settings)) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api,
    ):
        origin = {"Origin": "https://photos.example.com"}
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}
        preflight = await api.options("/classify", headers=origin | asked)
        assert preflight.status_code == 200
        assert "idempotency-key" in preflight.headers["Access-Control-Allow-Headers"].lower()
        headers = with_key() | origin
        first = await upload(api, photo(17), headers=headers)
        again = await upload(api, photo(17), headers=headers)
        check_replay(first, again)
        assert "Idempotency-Replayed" in again.headers["Access-Control-Expose-Headers"]
