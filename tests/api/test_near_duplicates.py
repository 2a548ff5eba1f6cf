"""A photo that is nearly the same as a known one, over HTTP: answered, counted and logged once, and never paid."""

import httpx2
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import CacheSettings, Settings
from app.database.tables.near_duplicates import CacheAlias
from app.database.tables.request_log import RequestLog
from app.main import create_app
from app.photo.perceptual_hash import perceptual_hash
from app.services.cache.reclassification import Selection, mark
from tests.fakes.model_replies import CATEGORY, CONFIDENCE, DESCRIPTION, classification
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import MISS, check, error_code, hit_count, sha256, upload
from tests.support.keys import until
from tests.support.ledgers import check_ledgers_agree
from tests.support.pictures import jpeg, scene
from tests.support.serving import serving

DATA = {"category": CATEGORY, "confidence": CONFIDENCE, "description": DESCRIPTION, "description_language": "zh"}
FIRST, AGAIN = jpeg(scene(1)), jpeg(scene(1), quality=70)
OTHER, OTHER_AGAIN = jpeg(scene(2)), jpeg(scene(2), quality=70)


def hex_hash(data: bytes) -> str:
    value = perceptual_hash(data)
    assert value is not None
    return f"{value:016x}"


async def test_a_photo_that_was_compressed_anew_is_not_paid_twice(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    first = (await upload(api, FIRST)).json()
    assert (first["from_cache"], "match" in first) == (False, False)
    again = (await upload(api, AGAIN, data={"image_hash": sha256(AGAIN)})).json()
    assert (again["from_cache"], again["match"], again["similar_to"]) == (True, "similar", sha256(FIRST))
    assert 0 <= again["distance"] <= 4
    assert (again["data"], again["model"]) == (DATA, "test-vision")
    assert model_server.call_count == 1

    # From now on it is known by its own hash.
    plain = (await check(api, sha256(AGAIN))).json()
    assert (plain["cached"], plain["data"], "match" in plain) == (True, DATA, False)
    assert "match" not in (await upload(api, AGAIN)).json()
    assert (await upload(api, OTHER)).json()["from_cache"] is False
    assert model_server.call_count == 2

    async with engine.connect() as connection:
        rows = (await connection.execute(select(RequestLog).order_by(RequestLog.id))).all()
    assert [(row.image_hash, row.from_cache) for row in rows] == [
        (sha256(FIRST), 0),
        (sha256(AGAIN), 1),
        (sha256(AGAIN), 1),
        (sha256(AGAIN), 1),
        (sha256(OTHER), 0),
    ]
    # The similar hit is the original's.
    assert [await hit_count(engine, sha256(data)) for data in (FIRST, AGAIN)] == [2, 3]
    await check_ledgers_agree(engine, aliases=1)
    for path in ("/stats/today", "/stats/cache-efficiency"):
        figures = (await api.get(path)).json()["data"]
        assert (figures["similar_hits"], figures["saved_by_similar"], figures["cost_saved"]) == (1, 0.01, 0.03)


async def test_photos_that_are_to_be_asked_for_again_answer_for_no_other(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    for data in (FIRST, AGAIN):
        await upload(api, data)
    assert await mark(engine, Selection("newer"), lambda _: None) == 2

    async def are_missed() -> bool:
        return [(await check(api, sha256(data))).json() for data in (FIRST, AGAIN)] == [MISS, MISS]

    await until(are_missed)
    again = (await upload(api, AGAIN)).json()
    assert (again["from_cache"], "match" in again, model_server.call_count) == (False, False, 2)
    # It has an answer of its own, so that it does not follow the other one any longer.
    async with engine.connect() as connection:
        assert (await connection.execute(select(CacheAlias))).all() == []
    assert (await upload(api, FIRST)).json()["from_cache"] is False
    assert model_server.call_count == 3


async def test_a_perceptual_hash_saves_the_upload(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    await upload(api, FIRST)
    question = {"image_hash": sha256(AGAIN), "perceptual_hash": hex_hash(AGAIN).upper(), "user_id": "device-1"}
    for headers in ({}, {"Origin": "https://app.example"}):
        answer = (await api.post("/classify/check-cache", json=question, headers=headers)).json()
        assert (answer["cached"], answer["match"], answer["similar_to"]) == (True, "similar", sha256(FIRST))
        assert answer["data"] == DATA
    # The client's word is not stored: another photo may have that hash.
    assert (await check(api, sha256(AGAIN))).json() == MISS
    unlike = {**question, "perceptual_hash": hex_hash(OTHER)}
    assert (await api.post("/classify/check-cache", json=unlike)).json() == MISS
    known = {**question, "image_hash": sha256(FIRST)}
    assert "match" not in (await api.post("/classify/check-cache", json=known)).json()
    assert await hit_count(engine, sha256(FIRST)) == 4
    await check_ledgers_agree(engine)
    assert model_server.call_count == 1


async def test_perceptual_hashes_save_the_uploads_of_an_album(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    for data in (FIRST, OTHER):
        await upload(api, data)
    new = jpeg(scene(3))
    photos = [new, AGAIN, FIRST, OTHER_AGAIN, AGAIN, AGAIN]
    hashes = [sha256(data) for data in photos]
    looks = [hex_hash(new), hex_hash(AGAIN).upper(), hex_hash(OTHER), hex_hash(OTHER), hex_hash(AGAIN), None]
    album = {"image_hashes": hashes, "perceptual_hashes": looks, "user_id": "album"}
    headers = {"Idempotency-Key": "album-1"}
    response = await api.post("/classify/check-cache/batch", json=album, headers=headers)
    results = response.json()["results"]
    assert [result.get("similar_to") for result in results] == [
        None,
        sha256(FIRST),
        None,
        sha256(OTHER),
        sha256(FIRST),
        None,
    ]
    assert [results[place] for place in (0, 5)] == [MISS, MISS]
    # Each is answered as it would be alone.
    for place in (1, 2, 3, 4):
        alone = {"image_hash": hashes[place], "perceptual_hash": looks[place]}
        answer = (await api.post("/classify/check-cache", json=alone)).json()
        apart = {"request_id", "timestamp"}
        assert {k: v for k, v in results[place].items() if k not in apart} == {
            k: v for k, v in answer.items() if k not in apart
        }
    again = await api.post("/classify/check-cache/batch", json=album, headers=headers)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (response.content, "true")

    async with engine.connect() as connection:
        rows = (await connection.execute(select(RequestLog).where(RequestLog.user_id == "album"))).all()
    assert [row.request_id for row in rows] == [results[place]["request_id"] for place in (1, 2, 3, 4)]
    # In the album and alone; the similar hits are the originals'.
    assert [await hit_count(engine, sha256(data)) for data in (FIRST, OTHER)] == [1 + 3 + 3, 1 + 1 + 1]
    figures = (await api.get("/stats/today")).json()["data"]
    assert (figures["cache_hits"], figures["similar_hits"]) == (8, 6)
    await check_ledgers_agree(engine)
    # The client's word is not stored.
    assert (await check(api, sha256(AGAIN))).json() == MISS
    assert model_server.call_count == 2


@pytest.mark.parametrize(
    ("looks", "says"),
    [
        ([], "2 are expected"),
        (["0" * 16], "2 are expected"),
        ([None] * 3, "2 are expected"),
        (["0" * 16, "12"], "16 hex digits"),
        (["0" * 16, 1], "16 hex digits"),
        ("0" * 16, "list"),
        ({"0" * 64: "0" * 16}, "list"),
    ],
)
async def test_perceptual_hashes_of_no_album_are_refused(api: httpx2.AsyncClient, looks: object, says: str) -> None:
    question = {"image_hashes": ["0" * 64, "1" * 64], "perceptual_hashes": looks}
    response = await api.post("/classify/check-cache/batch", json=question)
    assert (response.status_code, error_code(response)) == (400, "invalid_request")
    assert says in response.text


async def test_an_album_is_looked_up_by_looks_in_parts(api: httpx2.AsyncClient) -> None:
    hashes = [f"{number:064x}" for number in range(500)]
    looks = [f"{number:016x}" if number < 101 else None for number in range(500)]
    question = {"image_hashes": hashes, "perceptual_hashes": looks}
    refused = await api.post("/classify/check-cache/batch", json=question)
    assert (refused.status_code, error_code(refused)) == (400, "invalid_request")
    assert "100 other than null are the most" in refused.text
    for taken in (None, [None, *looks[1:]]):
        answer = await api.post("/classify/check-cache/batch", json={**question, "perceptual_hashes": taken})
        assert answer.json()["results"] == [MISS] * 500


async def test_null_is_no_perceptual_hash(api: httpx2.AsyncClient) -> None:
    question = {"image_hash": "0" * 64, "perceptual_hash": None}
    assert (await api.post("/classify/check-cache", json=question)).json() == MISS


@pytest.mark.parametrize(
    "value", ["", "12", "g" * 16, "0x" + "1" * 14, "1" * 17, 1, 2**70, [], {}, " " * 16, "１" * 16]
)
async def test_what_is_no_perceptual_hash_is_refused(api: httpx2.AsyncClient, value: object) -> None:
    question = {"image_hash": "0" * 64, "perceptual_hash": value}
    response = await api.post("/classify/check-cache", json=question)
    assert (response.status_code, error_code(response)) == (400, "invalid_request")


async def test_documents_and_doubtful_answers_are_asked_about_again(
    api: httpx2.AsyncClient, engine: AsyncEngine, model_server: FakeModelServer
) -> None:
    for seed, (category, confidence) in enumerate((("idcard", 0.99), ("foods", 0.59)), 10):
        model_server.script(classification(category, confidence), classification(category, confidence))
        for quality in (90, 70):
            answer = (await upload(api, jpeg(scene(seed), quality=quality))).json()
            assert (answer["from_cache"], answer["data"]["category"]) == (False, category)
    async with engine.connect() as connection:
        # Not even the hash of a document is kept.
        assert await connection.scalar(text("SELECT COUNT(*) FROM perceptual_hash")) == 2
    await check_ledgers_agree(engine)


async def test_switched_off(settings: Settings, engine: AsyncEngine, model_server: FakeModelServer) -> None:
    off = settings.model_copy(update={"cache": CacheSettings.model_validate({"near_duplicates": False})})
    async with (
        serving(create_app(off)) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api,
    ):
        await upload(api, FIRST)
        assert (await upload(api, AGAIN)).json()["from_cache"] is False
        question = {"image_hash": "0" * 64, "perceptual_hash": hex_hash(FIRST)}
        assert (await api.post("/classify/check-cache", json=question)).json() == MISS
    assert model_server.call_count == 2
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT COUNT(*) FROM perceptual_hash")) == 0
