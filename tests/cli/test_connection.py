"""How the client bears a service that is busy, away, in trouble, or none of ours."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from app.cli import connection as service
from app.cli.classify import Cost, summarize
from app.cli.client import PhotoClient
from app.cli.connection import RequestFailed, ServiceConnection, Stopped
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server

DATA = {"category": "pets", "confidence": 0.9, "description": None}
HIT = HTTPResponse(200, json.dumps({"success": True, "cached": True, "data": DATA}).encode())
MISS = HTTPResponse(200, b'{"success": true, "cached": false}')
FOUND = HTTPResponse(200, json.dumps({"success": True, "from_cache": False, "data": DATA}).encode())
FOUND_BY_OTHERS = HTTPResponse(200, json.dumps({"success": True, "from_cache": True, "data": DATA}).encode())
BROKEN_OFF = HTTPResponse(200, b"{}", sent_bytes=0)
HTML = {"content-type": "text/html"}


def error(status: int, code: str, **headers: str) -> HTTPResponse:
    body = {"success": False, "error": {"code": code, "message": "Words.", "details": None}}
    return HTTPResponse(status, json.dumps(body).encode(), headers)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not wait in these tests, whatever the service asks for."""
    monkeypatch.setattr(service, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(service, "MAX_PAUSE_SECONDS", 0.01)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (30, 20), "teal").save(path)
    return path


class Script:
    """Answers with one response after the other, the last again and again, and keeps the paths that were asked for."""

    def __init__(self, *responses: HTTPResponse) -> None:
        self.responses = list(responses)
        self.requests: list[HTTPRequest] = []

    async def __call__(self, request: HTTPRequest) -> HTTPResponse:
        self.requests.append(request)
        return self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]

    @property
    def paths(self) -> list[str]:
        return [request.path.removeprefix("/api/v1/") for request in self.requests]


@contextmanager
def client_of(script: Script) -> Iterator[PhotoClient]:
    with running_http_server(script) as url:
        connection = ServiceConnection(url)
        try:
            yield PhotoClient(connection)
        finally:
            connection.close()


@pytest.mark.parametrize(
    "trouble",
    [
        BROKEN_OFF,
        error(503, "server_busy", **{"Retry-After": "7"}),
        error(429, "too_many_requests"),
        HTTPResponse(502, b"<html>", HTML),
        HTTPResponse(503, b"<html>", HTML),
    ],
)
def test_what_passes_is_waited_for_in_look_ups_and_uploads(photo: Path, trouble: HTTPResponse) -> None:
    script = Script(trouble, trouble, MISS, trouble, trouble, FOUND)
    with client_of(script) as client:
        result = client.classify(photo)
    assert (result.status, result.category, result.from_cache) == ("uploaded", "pets", False)
    assert script.paths == ["classify/check-cache"] * 3 + ["classify"] * 3
    # All tries of a request have one key.
    keys = [request.headers["idempotency-key"] for request in script.requests]
    assert keys == [keys[0]] * 3 + [keys[3]] * 3
    assert keys[0] != keys[3]
    uploads = [request.body for request in script.requests[3:]]
    assert all(b"\xff\xd8" in body and len(body) == len(uploads[0]) for body in uploads)


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (error(400, "corrupt_image"), "corrupt_image"),
        (error(502, "model_refused"), "model_refused"),
        (error(504, "model_timeout"), "model_timeout"),
        (error(503, "model_authentication_failed", **{"Retry-After": "60"}), "model_authentication_failed"),
        (error(503, "model_quota_exhausted", **{"Retry-After": "60"}), "model_quota_exhausted"),
        (HTTPResponse(413, b"<html>too large", HTML), "http_error"),
        (HTTPResponse(200, b'{"success": true}'), "http_error"),
        (HTTPResponse(200, b'{"success": true, "data": {"category": 7}}'), "http_error"),
    ],
)
def test_a_refused_photo_is_sent_once_and_the_next_goes_on(photo: Path, refusal: HTTPResponse, code: str) -> None:
    script = Script(MISS, refusal, HIT)
    with client_of(script) as client:
        result = client.classify(photo)
        assert (result.status, result.error) == ("failed", code)
        assert script.paths == ["classify/check-cache", "classify"]
        Image.new("RGB", (20, 30), "teal").save(photo)
        assert client.classify(photo).status == "hit"


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (error(404, "not_found"), 1),
        (HTTPResponse(200, b"<html>Welcome", HTML), 1),
        (HTTPResponse(200, b"[" * 100_000), 1),
        (HTTPResponse(200, b"[]", {"content-encoding": "gzip"}), 1),
        (HTTPResponse(200, b'{"success": true}'), 1),
        (HTTPResponse(401, b"<html>", HTML), 1),
        (HTTPResponse(301, b"", {"Location": "https://photos.example.com/"}), 1),
        (HTTPResponse(502, b"<html>", HTML), 6),
        (BROKEN_OFF, 6),
    ],
)
def test_what_is_no_service_ends_the_run(photo: Path, answer: HTTPResponse, tries: int) -> None:
    script = Script(answer)
    with client_of(script) as client:
        assert client.classify(photo).status == "failed"
        assert client.failure is not None
        assert ("photos.example.com" in str(client.failure)) == (answer.status == 301)
        with pytest.raises(Stopped):
            client.classify(photo)
    assert len(script.paths) == tries


def test_a_service_in_trouble_does_not_end_the_run(photo: Path) -> None:
    script = Script(*[error(503, "database_unavailable")] * 6, HIT)
    with client_of(script) as client:
        assert client.classify(photo).error == "database_unavailable"
        Image.new("RGB", (20, 30), "teal").save(photo)
        assert client.classify(photo).status == "hit"


def test_a_photo_that_breaks_each_connection_does_not_end_the_run(photo: Path) -> None:
    script = Script(MISS, *[BROKEN_OFF] * 6, HIT)
    with client_of(script) as client:
        assert client.classify(photo).error == "unreachable"
        Image.new("RGB", (20, 30), "teal").save(photo)
        assert client.classify(photo).status == "hit"


def test_a_service_that_dies_is_asked_six_times(photo: Path) -> None:
    script = Script(HIT)
    with running_http_server(script) as url:
        connection = ServiceConnection(url)
        client = PhotoClient(connection)
        assert client.classify(photo).status == "hit"
    Image.new("RGB", (20, 30), "teal").save(photo)
    result = client.classify(photo)
    connection.close()
    assert result.error == "unreachable"
    assert client.failure is not None


def test_an_upload_that_is_not_answered_is_not_sent_again(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "UPLOAD_TIMEOUT_SECONDS", 0.2)
    paths: list[str] = []

    async def answer(request: HTTPRequest) -> HTTPResponse:
        paths.append(request.path)
        if not request.path.endswith("check-cache"):
            await asyncio.Event().wait()
        return MISS

    with running_http_server(answer) as url:
        connection = ServiceConnection(url)
        result = PhotoClient(connection).classify(photo)
        connection.close()
    assert result.error == "timeout"
    assert len(paths) == 2


def test_statistics_of_a_stranger_are_refused() -> None:
    with running_http_server(Script(error(401, "admin_key_required"))) as url:
        connection = ServiceConnection(url)
        with pytest.raises(RequestFailed, match="Words"):
            connection.get("/stats/today")
        connection.close()


def test_only_what_asked_a_model_costs(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue"), ("d", "green")):
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{name}.png")
    with client_of(Script(HIT, MISS, FOUND, MISS, FOUND_BY_OTHERS)) as client:
        results = [client.classify(path) for path in sorted(tmp_path.iterdir())]
    summary = summarize(results, Cost(0.5, "EUR"))
    assert (summary.hits, summary.duplicates, summary.uploads) == (1, 1, 2)
    assert (summary.cost, summary.cost_saved, summary.currency) == (0.5, 1.5, "EUR")
