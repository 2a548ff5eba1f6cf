"""What all hosted models share: a bounded HTTP client, and one table from a provider's failure to our errors.

A server's words are only searched for known codes. They never enter an error, a log line or a `repr`: they may quote
the key or the picture.
"""

import json
import logging
import re
import ssl
from collections.abc import Awaitable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from app.clients.errors import (
    ModelAuthenticationFailed,
    ModelConfigurationError,
    ModelError,
    ModelNotFound,
    ModelQuotaExhausted,
    ModelRateLimited,
    ModelRefused,
    ModelRejectedRequest,
    ModelResponseInvalid,
    ModelTimeout,
    ModelUnreachable,
)
from app.config.model import ModelSettings

T = TypeVar("T")

# A connection that takes longer than this to open is broken; only the answer may take LLM_TIMEOUT.
CONNECT_TIMEOUT_SECONDS = 5.0
# An answer is a few kilobytes and the longest list of models a few hundred; more is a mistake or an attack.
RESPONSE_MAX_BYTES = 4 * 1024 * 1024
# The longest pause we pass on. Base never waits longer than its total deadline anyway.
RETRY_AFTER_MAX_SECONDS = 60.0
_SEARCHED_CHARACTERS = 20_000
# The SDKs do not validate a response: what is wrong with it shows when it is decoded, or read as what it should be.
_UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
# What no longer holds once a body is read. The type goes too: JSON is UTF-8 (RFC 8259), and a hostile charset such as
# "zlib" would be applied by the code that asks for the text.
_BODY_HEADERS = {"content-encoding", "content-length", "transfer-encoding", "content-type"}

# Codes as the providers document them, in lower case: OpenAI, Anthropic, DashScope, Zhipu (numbers).
_QUOTA_CODES = {
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "arrearage",
    "allocationquota.freetieronly",
    "1113",
}
_REFUSAL_CODES = {
    "content_filter",
    "content_policy_violation",
    "data_inspection_failed",
    "datainspectionfailed",
    "1301",
}
_NOT_FOUND_CODES = {"model_not_found", "1211"}
_KEY_CODES = {"invalid_api_key"}
_REGION_CODE = "unsupported_country_region_territory"


class BoundedClient(httpx2.AsyncClient):
    """An HTTP client that reads at most `RESPONSE_MAX_BYTES` of a response, counted after decompression."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send `request` and return the whole response.

        Raises:
            httpx2.ReadError: the response is too large; or any other error of `httpx2.AsyncClient.send`.
        """
        options["stream"] = True
        response = await super().send(request, **options)
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > RESPONSE_MAX_BYTES:
                    raise httpx2.ReadError("The response is too large.", request=request)
        finally:
            await response.aclose()
        headers = [item for item in response.headers.multi_items() if item[0].lower() not in _BODY_HEADERS]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)


def create_http_client(settings: ModelSettings) -> BoundedClient:
    """Return the HTTP client for an SDK: as many connections as calls at once, plus one for the health probe.

    Redirects are not followed: the photo and the key go to the configured address and nowhere else. The SDKs log
    whole requests, photo included, when they log at DEBUG level, so that level is switched off here.
    """
    for name in ("openai", "anthropic"):
        logging.getLogger(name).setLevel(logging.INFO)
    connections = settings.max_concurrency + 1
    return BoundedClient(
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        timeout=httpx2.Timeout(
            settings.timeout_seconds, connect=min(CONNECT_TIMEOUT_SECONDS, settings.timeout_seconds)
        ),
        follow_redirects=False,
        verify=_tls_context(),
    )


@cache
def _tls_context() -> ssl.SSLContext:
    """Return what all clients of the process trust: loading the authorities' certificates takes 40 ms each time."""
    return httpx2.create_ssl_context()


def checked_api_key(settings: ModelSettings) -> str | None:
    """Return LLM_API_KEY without surrounding spaces, or None when there is none.

    Raises:
        ModelConfigurationError: it holds a character that an HTTP header cannot carry.
    """
    key = settings.api_key.get_secret_value().strip() if settings.api_key else ""
    if not (key.isascii() and key.isprintable()):
        raise ModelConfigurationError("LLM_API_KEY holds a character that an HTTP header cannot carry.")
    return key or None


def checked_base_url(url: str) -> str:
    """Return `url` if a server can be asked there; credentials in it would end up in logs, so they are refused.

    Raises:
        ModelConfigurationError: it is not a plain http(s) address.
    """
    try:
        parts = urlsplit(url.strip())
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
        valid = valid and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise ModelConfigurationError(
            "LLM_BASE_URL must be an http:// or https:// address without a user name, such as http://127.0.0.1:11434/v1."
        )
    return url.strip()


async def sdk_call(call: Awaitable[T]) -> T | httpx2.Response:
    """Await the call of an SDK and the reading of its answer; return what it gives, or the response that is no 2xx.

    Raises:
        ModelTimeout, ModelUnreachable: there is no response.
        ModelResponseInvalid: the response is not what the API promises.
        ModelError: the call itself raised it.
    """
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - a transport may raise anything, and its words may quote the key
        if isinstance(response := getattr(error, "response", None), httpx2.Response):
            return response
        failure = error_from_exception(error)
    # Not in the block above: as its context, the SDK's error would keep the request and the photo in it.
    raise failure


def error_from_exception(error: Exception) -> ModelError:
    """Map what went wrong between us and the server, given the transport's error (an SDK's error has it as cause)."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, _UNREADABLE):
        return ModelResponseInvalid()
    cause = error.__cause__ if isinstance(error.__cause__, httpx2.HTTPError) else error
    if isinstance(cause, (httpx2.ReadTimeout, httpx2.WriteTimeout)):
        return ModelTimeout()
    return ModelUnreachable()


def error_from_response(response: httpx2.Response) -> ModelError:
    """Map a response whose status is not 2xx to the error it stands for; see the table in the body."""
    status = response.status_code
    codes = set(_codes(response))
    # Anthropic reports an empty account as an ordinary 400 and says so only in words.
    broke = "credit balance" in complaint(response) or any(code.endswith("spend_limit_reached") for code in codes)
    rows: list[tuple[bool, ModelError]] = [
        (status in {408, 409, 425} or status >= 500, ModelUnreachable()),
        (status == 402 or broke or bool(codes & _QUOTA_CODES), ModelQuotaExhausted()),
        (bool(codes & _REFUSAL_CODES), ModelRefused()),
        (status == 404 or bool(codes & _NOT_FOUND_CODES), ModelNotFound()),
        (
            _REGION_CODE in codes,
            ModelAuthenticationFailed(advice="The model provider does not serve this server's region."),
        ),
        (status in {401, 403} or bool(codes & _KEY_CODES), ModelAuthenticationFailed()),
        (status == 429, ModelRateLimited()),
        (
            status == 413,
            ModelRejectedRequest(advice="The picture is too large for the model server: lower LLM_IMAGE_MAX_EDGE."),
        ),
        (
            300 <= status < 400,
            ModelRejectedRequest(advice="The model server redirects: set LLM_BASE_URL to its final address."),
        ),
    ]
    error = next((error for applies, error in rows if applies), ModelRejectedRequest())
    if error.retryable:
        error.retry_after_seconds = retry_after_seconds(response.headers)
    return error


def complaint(response: httpx2.Response) -> str:
    """Return what the server says, in lower case and bounded; only to be searched for words, never to be shown."""
    return response.text[:_SEARCHED_CHARACTERS].lower()


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the pause a server asks for, in seconds from 0 to `RETRY_AFTER_MAX_SECONDS`, or None.

    `Retry-After` is a number of seconds or an HTTP date (RFC 9110, 10.2.3); OpenAI sends `retry-after-ms` too, which
    is finer and wins. Anything else, such as a negative number, counts as absent.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, RETRY_AFTER_MAX_SECONDS)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value is not None:
        try:
            date = parsedate_to_datetime(value)
            seconds = max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError, OverflowError):
            return None
    return None if seconds is None else min(seconds, RETRY_AFTER_MAX_SECONDS)


def _number(value: str | None) -> float | None:
    number = (value or "").strip()
    return float(number) if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", number) else None


def _codes(response: httpx2.Response) -> Iterator[str]:
    """Yield `code`, `type` and `error_code` of the body, of its `error` and of that one's `details`, in lower case."""
    try:
        node = json.loads(response.content)
    except (ValueError, RecursionError):
        return
    for key in ("error", "details", None):
        if not isinstance(node, dict):
            return
        for name in ("code", "type", "error_code"):
            if isinstance(node.get(name), (str, int)):
                yield str(node[name]).lower()
        node = node.get(key) if key else None
