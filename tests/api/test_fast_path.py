"""The short way answers what the route answers, and leaves to the route whatever is not a plain question."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from app.api import fast_path
from app.api.routes.classify import cache_hit
from app.errors import DatabaseUnavailable
from app.schemas.classify import CacheHit
from app.services.classification.service import ClassifierService
from app.services.request_log.record import Answer
from tests.support.classify import error_code, photo, sha256, upload

PATH = "/classify/check-cache"
KNOWN = sha256(photo(1))
JSON: dict[str, str | bytes] = {"Content-Type": "application/json"}

QUESTIONS: dict[str, tuple[bytes, dict[str, str | bytes]]] = {
    "hit": (json.dumps({"image_hash": KNOWN}).encode(), JSON),
    "hit, upper case": (json.dumps({"image_hash": KNOWN.upper(), "user_id": " 用户 "}).encode(), JSON),
    "hit, charset": (json.dumps({"image_hash": KNOWN}).encode(), {"Content-Type": "application/json; charset=utf-8"}),
    "hit, unknown field": (json.dumps({"image_hash": KNOWN, "more": [1, {}]}).encode(), JSON),
    "hit, header": (json.dumps({"image_hash": KNOWN}).encode(), {**JSON, "X-User-ID": "device"}),
    "hit, UTF-16": (json.dumps({"image_hash": KNOWN}).encode("utf-16"), JSON),
    "miss": (json.dumps({"image_hash": "0" * 64}).encode(), JSON),
    "hash too short": (json.dumps({"image_hash": "0" * 63}).encode(), JSON),
    "hash with a line end": (json.dumps({"image_hash": "0" * 64 + "\n"}).encode(), JSON),
    "hash is a number": (b'{"image_hash": 1}', JSON),
    "no hash": (b"{}", JSON),
    "a list": (b"[]", JSON),
    "not JSON": (b"{", JSON),
    "nothing": (b"", JSON),
    "bad user": (json.dumps({"image_hash": KNOWN, "user_id": "u" * 65}).encode(), JSON),
    "half a character": (b'{"image_hash": "%s", "user_id": "\\ud800"}' % KNOWN.encode(), JSON),
    "bad header": (json.dumps({"image_hash": KNOWN}).encode(), {**JSON, "X-User-ID": "u" * 65}),
    "header is not UTF-8": (json.dumps({"image_hash": KNOWN}).encode(), {**JSON, "X-User-ID": b"\xff"}),
    "no type": (json.dumps({"image_hash": KNOWN}).encode(), {}),
    "text": (json.dumps({"image_hash": KNOWN}).encode(), {"Content-Type": "text/plain"}),
    "too large": (b'{"image_hash": "%s"%s}' % (KNOWN.encode(), b" " * 200_000), JSON),
}


def encoded(headers: dict[str, str | bytes]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()]


def comparable(response: httpx2.Response) -> tuple[int, str, dict[str, Any]]:
    body = response.json()
    assert body.get("request_id", response.headers["X-Request-ID"]) == response.headers["X-Request-ID"]
    varying = {name: bool(body.pop(name, None)) for name in ("request_id", "timestamp")}
    return response.status_code, response.headers["Content-Type"], {**body, **varying}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_both_ways_answer_the_same(
    api: httpx2.AsyncClient, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(api, photo(1))
    short: list[Answer] = []

    def note(answer: Answer) -> CacheHit:
        short.append(answer)
        return cache_hit(answer)

    monkeypatch.setattr(fast_path, "cache_hit", note)
    body, headers = QUESTIONS[question]
    here = await api.post(PATH, content=body, headers=encoded(headers))
    assert bool(short) == (question.startswith("hit") and "UTF-16" not in question)
    there = await api.post(PATH, content=body, headers=encoded({**headers, "Origin": "https://app.example"}))
    assert len(short) <= 1
    assert comparable(here) == comparable(there)
    assert list(here.json()) == list(there.json())


async def test_a_body_in_pieces_is_read_by_the_route(api: httpx2.AsyncClient) -> None:
    async def pieces() -> Any:
        for piece in (b'{"image_hash": ', b'"%s"' % (b"0" * 64), b"}"):
            yield piece
            await asyncio.sleep(0.01)

    response = await api.post(PATH, content=pieces(), headers=encoded(JSON))
    assert (response.status_code, response.json()["cached"]) == (200, False)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(DatabaseUnavailable(), 503, "database_unavailable"), (RuntimeError("secret"), 500, "internal_error")],
)
async def test_failures_have_the_one_format(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ClassifierService, "look_up", fail)
    response = await api.post(PATH, json={"image_hash": KNOWN})
    assert (response.status_code, error_code(response)) == (status, code)
    assert "secret" not in response.text
