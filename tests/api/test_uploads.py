"""What an upload may be as a form: its parts, its size, and how many there may be at once."""

import asyncio
import hashlib
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from app import resources
from app.api import uploads
from app.config.settings import Settings
from app.main import create_app
from app.runtime.memory_budget import MIN_RESERVED_BYTES, UPLOAD_MEMORY_BYTES
from app.services.photos import UploadedPhoto
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import error_code, photo, upload
from tests.support.serving import serving

UPLOAD_HEAD = (
    "POST /api/v1/classify HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    '--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n\xff\xd8'
)


async def test_uploads_that_are_refused(api: httpx2.AsyncClient) -> None:
    async def code_of(response: httpx2.Response) -> tuple[int, str]:
        return response.status_code, error_code(response)

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    cases: list[tuple[dict[str, Any], tuple[int, str]]] = [
        ({"json": {"image": "x"}}, (400, "missing_image")),
        ({"content": b""}, (400, "missing_image")),
        ({"files": {"photo": photo(1)}}, (400, "missing_image")),
        ({"files": [("image", photo(1)), ("image", photo(2))]}, (400, "too_many_images")),
        ({"files": {"file": b"x" * 5000}}, (400, "missing_image")),
        ({"files": {"image": photo(1)}, "data": {"image_hash": "x" * 1000}}, (400, "invalid_request")),
        ({"files": {"image": photo(1)}, "data": {"image_hash": "a" * 2000}}, (400, "invalid_request")),
        ({"files": [("image", photo(1)), *((f"f{i}", b"x") for i in range(30))]}, (400, "invalid_request")),
        ({"files": {"image": photo(1), "other": b"x" * (11 * 1024 * 1024)}}, (413, "payload_too_large")),
        ({"content": part + photo(1), "headers": form}, (400, "invalid_request")),
        ({"content": b"no multipart at all", "headers": form}, (400, "invalid_request")),
        ({"content": part, "headers": {"Content-Type": "multipart/form-data"}}, (400, "missing_image")),
        ({"files": {"image": b"\xff\xd8" + b"x" * (15 * 1024 * 1024)}}, (413, "image_too_large")),
        ({"files": {"image": photo(1)}, "headers": {"X-User-ID": "x" * 65}}, (400, "invalid_request")),
        ({"files": {"image": photo(1)}, "headers": {b"X-User-ID": b"\xff\xfe"}}, (400, "invalid_request")),
    ]
    for request, expected in cases:
        assert await code_of(await api.post("/classify", **request)) == expected, request.keys()


async def test_an_upload_over_the_limit_is_answered_before_it_has_arrived(api: httpx2.AsyncClient) -> None:
    host, port = api.base_url.host, api.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    head = (
        "POST /api/v1/classify HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    )
    writer.write(head.encode() + b"x" * (10 * 1024 * 1024 + 1))
    status = await asyncio.wait_for(reader.readline(), 20)
    assert status.split()[1] == b"413"
    writer.close()


async def test_a_body_that_stops_arriving_is_given_up(api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SILENCE_SECONDS", 0.2)

    host, port = api.base_url.host, api.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    head = "POST /api/v1/classify HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n"
    writer.write(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-".encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.split()[1] == b"408"
    assert b"connection: close" in answer
    assert b'"request_timeout"' in answer
    writer.close()


async def test_a_pause_of_the_process_is_not_the_clients(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SILENCE_SECONDS", 0.3)

    async def pieces() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
        await asyncio.sleep(0.1)
        # The service lives in this event loop, and stands still with it.
        time.sleep(2)  # noqa: ASYNC251
        yield photo(5) + b"\r\n--b--\r\n"

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await api.post("/classify", content=pieces(), headers=form)
    assert answer.status_code == 200, answer.text


async def test_a_promise_takes_no_memory(api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # Those who wait would be refused at once.
    monkeypatch.setattr(uploads, "ADMISSION_TIMEOUT_SECONDS", 0.01)
    open_connections = []
    head = UPLOAD_HEAD.replace("/classify", "/classify/batch").replace("1000000", str(UPLOAD_MEMORY_BYTES // 5))
    for _ in range(5):
        # Together they promise all memory that there is.
        reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
        writer.write(head.encode())
        open_connections.append((reader, writer))
    large = photo(1) + bytes(3 * 1024 * 1024)
    answers = await asyncio.gather(*(upload(api, photo(seed) + large) for seed in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5
    for _, writer in open_connections:
        writer.close()


async def test_a_full_house_is_said_and_ends(
    settings: Settings, model_server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "ADMISSION_TIMEOUT_SECONDS", 0.2)
    # Three, and one that has the other half for itself.
    monkeypatch.setattr(resources, "UPLOAD_MEMORY_BYTES", 6 * MIN_RESERVED_BYTES)
    async with (
        serving(create_app(settings)) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api,
    ):
        model_server.delay_seconds = 1.5
        responses = await asyncio.gather(*(upload(api, photo(seed)) for seed in range(100, 109)))
        refused = [response for response in responses if response.status_code == 503]
        assert {error_code(response) for response in refused} == {"server_busy"}
        assert len(refused) == 5
        model_server.delay_seconds = 0
        assert (await upload(api, photo(200))).status_code == 200


def test_a_photo_sent_byte_by_byte_takes_no_more_memory_than_its_bytes() -> None:
    photo = bytes(range(256)) * 400
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n' + photo + b"\r\n--b--\r\n"
    collector = uploads._PartCollector(b"b", 10**6, max_parts=2, image_field="image")
    tracemalloc.start()
    try:
        for position in range(len(body)):
            collector.feed(body[position : position + 1])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (part,) = collector.finished
    assert isinstance(part, UploadedPhoto)
    assert part.data == photo
    assert part.sha256 == hashlib.sha256(photo).hexdigest()
    # The pieces, their sum, and what bytearray takes in advance; a piece of its own would be 300 bytes for each.
    assert peak < 4 * len(photo)
