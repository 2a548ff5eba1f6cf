import gzip
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.clients.errors import (
    ModelConfigurationError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelResponseInvalid,
    ModelTimeout,
    ModelUnreachable,
)
from app.clients.llm import http
from app.clients.llm.http import (
    RETRY_AFTER_MAX_SECONDS,
    checked_api_key,
    checked_base_url,
    complaint,
    create_http_client,
    error_from_response,
    retry_after_seconds,
    sdk_call,
)
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.support.model_settings import model_settings


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "3600"}, RETRY_AFTER_MAX_SECONDS),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "-250", "retry-after": "9"}, 9),
        ({"retry-after-ms": "99999999"}, RETRY_AFTER_MAX_SECONDS),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, RETRY_AFTER_MAX_SECONDS),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -0000"}, RETRY_AFTER_MAX_SECONDS),
        ({"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "1_0"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "tomorrow"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(httpx2.Headers(headers)) == seconds


def test_retry_after_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    seconds = retry_after_seconds({"retry-after": date})
    assert seconds is not None
    assert 20 < seconds <= 30


@given(st.text(), st.text())
def test_retry_after_never_fails(seconds: str, milliseconds: str) -> None:
    value = retry_after_seconds({"retry-after": seconds, "retry-after-ms": milliseconds})
    assert value is None or 0 <= value <= RETRY_AFTER_MAX_SECONDS


@given(st.integers(300, 599), st.binary(max_size=200))
def test_every_response_becomes_an_error(status: int, body: bytes) -> None:
    error = error_from_response(httpx2.Response(status, content=body))
    assert isinstance(error, ModelError)
    assert type(error) is not ModelError


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b'{"error": "text"}',
        b'{"error": {"code": null}}',
        b'{"code": ["a"]}',
        b"[" * 9999,
    ],
)
def test_body_of_any_shape_is_looked_at(body: bytes) -> None:
    error = error_from_response(httpx2.Response(429, content=body, headers={"retry-after": "3"}))
    assert type(error) is ModelRateLimited
    assert error.retry_after_seconds == 3


def test_server_errors_carry_the_pause_too() -> None:
    error = error_from_response(httpx2.Response(503, headers={"retry-after": "3"}))
    assert type(error) is ModelUnreachable
    assert error.retry_after_seconds == 3


def test_complaint_is_bounded() -> None:
    assert len(complaint(httpx2.Response(400, content=b"A" * 100_000))) == 20_000


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ModelRefused(), ModelRefused),
        (ValueError("sk-secret"), ModelResponseInvalid),
        (AttributeError("sk-secret"), ModelResponseInvalid),
        (httpx2.ReadTimeout("sk-secret"), ModelTimeout),
        (httpx2.ConnectTimeout("sk-secret"), ModelUnreachable),
        (OSError("sk-secret"), ModelUnreachable),
    ],
)
async def test_error_of_a_call_keeps_nothing_of_it(raised: Exception, expected: type[ModelError]) -> None:
    async def call() -> None:
        raise raised

    with pytest.raises(ModelError) as caught:
        await sdk_call(call())
    assert type(caught.value) is expected
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("encoded", [True, False])
async def test_response_is_bounded_after_decompression(monkeypatch: pytest.MonkeyPatch, *, encoded: bool) -> None:
    monkeypatch.setattr(http, "RESPONSE_MAX_BYTES", 100_000)

    async def handler(request: HTTPRequest) -> HTTPResponse:
        body = b"x" * (100_001 if request.path == "/large" else 100_000)
        headers = {"Content-Encoding": "gzip"} if encoded else {}
        return HTTPResponse(body=gzip.compress(body) if encoded else body, headers=headers)

    with running_http_server(handler) as url:
        async with create_http_client(model_settings("custom")) as client:
            assert len((await client.get(url + "/small")).content) == 100_000
            with pytest.raises(httpx2.ReadError):
                await client.get(url + "/large")


async def test_redirects_are_not_followed() -> None:
    paths: list[str] = []

    async def handler(request: HTTPRequest) -> HTTPResponse:
        paths.append(request.path)
        return HTTPResponse(302, headers={"Location": "/elsewhere"})

    with running_http_server(handler) as url:
        async with create_http_client(model_settings("custom")) as client:
            assert (await client.get(url + "/here")).status_code == 302
    assert paths == ["/here"]


async def test_sdks_do_not_log_requests() -> None:
    logging.getLogger("openai").setLevel(logging.DEBUG)
    logging.getLogger("anthropic").setLevel(logging.DEBUG)
    await create_http_client(model_settings("custom")).aclose()
    assert not logging.getLogger("openai").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("anthropic").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:11434",
        "ftp://example.com",
        "http://",
        "http:///v1",
        "http://user:secret@example.com/v1",
        "http://example.com:99999",
        "http://[::1",
    ],
)
def test_base_url_that_cannot_be_asked(url: str) -> None:
    with pytest.raises(ModelConfigurationError) as raised:
        checked_base_url(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:11434/v1", "https://example.com", "http://[::1]:8000/v1/"])
def test_base_url_that_can(url: str) -> None:
    assert checked_base_url(f" {url}\n") == url


@pytest.mark.parametrize(("key", "expected"), [(" sk-1\n", "sk-1"), ("", None), ("  ", None), (None, None)])
def test_api_key(key: str | None, expected: str | None) -> None:
    secret = None if key is None else SecretStr(key)
    assert checked_api_key(model_settings("openai", api_key=secret)) == expected


@pytest.mark.parametrize("key", ["sk-密钥", "sk-1\nX-Evil: 1", "sk\x00"])
def test_api_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(ModelConfigurationError) as raised:
        checked_api_key(model_settings("openai", api_key=SecretStr(key)))
    assert "sk" not in str(raised.value).replace("ask", "")
