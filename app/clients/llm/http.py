"""What all hosted models share: a bounded HTTP client, and the way from a provider's failure to one of our errors.

A server's words are only searched for known codes. They never enter an error, a log line or a `repr`: they may quote
the key or the picture.
"""

import logging
import re
import ssl
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from app.clients.errors import (
    ModelConfigurationError,
    ModelError,
    ModelRateLimited,
    ModelRejectedRequest,
    ModelResponseInvalid,
    ModelTimeout,
    ModelUnreachable,
)
from app.clients.llm.body import read_error, settled
from app.clients.llm.error_rules import find_rule
from app.config.model import ModelSettings

T = TypeVar("T")

# A connection that takes longer than this to open is broken; only the answer may take LLM_TIMEOUT.
CONNECT_TIMEOUT_SECONDS = 5.0
# An answer is a few kilobytes and the longest list of models a few hundred; more is a mistake or an attack.
RESPONSE_MAX_BYTES = 4 * 1024 * 1024
# The longest pause we pass on. Base never waits longer than its total deadline anyway.
RETRY_AFTER_MAX_SECONDS = 60.0
# The SDKs do not validate a response: what is wrong with it shows when it is decoded, or read as what it should be.
_UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
# What no longer holds once a body is read. The type goes too: JSON is UTF-8 (RFC 8259), and a hostile charset such as
# "zlib" would be applied by the code that asks for the text.
_BODY_HEADERS = {"content-encoding", "content-length", "transfer-encoding", "content-type"}


class BoundedClient(httpx2.AsyncClient):
    """An HTTP client that reads at most `max_bytes` of a response, counted after decompression.

    What is an error in truth gets the status of one, and an event stream becomes one answer (`body.settled`), unless
    responses are files (`reads_files`).
    """

    max_bytes: int
    reads_files = False

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
                if len(body) > self.max_bytes:
                    raise httpx2.ReadError("The response is too large.", request=request)
        finally:
            await response.aclose()
        headers = [item for item in response.headers.multi_items() if item[0].lower() not in _BODY_HEADERS]
        status, content = response.status_code, bytes(body)
        if response.is_success and not self.reads_files:
            status, content = settled(status, content)
        return httpx2.Response(status, headers=headers, content=content, request=request)


def create_http_client(settings: ModelSettings) -> BoundedClient:
    """Return the HTTP client for an SDK; it keeps as many connections as its share of the calls, and one for the probe.

    How many calls there are at once is bounded before (app/clients/base.py): a process may have the others' share, too.

    Redirects are not followed: the photo and the key go to the configured address and nowhere else. The SDKs log
    whole requests, photo included, when they log at DEBUG level, so that level is switched off here.
    """
    for name in ("openai", "anthropic"):
        logging.getLogger(name).setLevel(logging.INFO)
    connections = settings.max_concurrency + 1
    client = BoundedClient(
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=connections),
        timeout=httpx2.Timeout(
            settings.timeout_seconds, connect=min(CONNECT_TIMEOUT_SECONDS, settings.timeout_seconds)
        ),
        follow_redirects=False,
        verify=_tls_context(),
    )
    client.max_bytes = RESPONSE_MAX_BYTES
    return client


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
    """Map a response whose status is not 2xx to the error that it stands for, by the table of `error_rules.py`."""
    rule = find_rule(response.status_code, *read_error(response.content))
    error = ModelRejectedRequest() if rule is None else rule.kind(advice=rule.advice)
    asked_pause = retry_after_seconds(response.headers)
    if response.status_code == 402 and rule is not None and rule.recognised_by == "402" and asked_pause is not None:
        # https://openrouter.ai/docs/api/reference/errors-and-debugging: with the header it is a limit that passes.
        error = ModelRateLimited()
    if error.retryable:
        own_pause = None if rule is None else rule.pause_seconds
        error.retry_after_seconds = own_pause if own_pause is not None else asked_pause
    return error


def complaint(response: httpx2.Response) -> str:
    """Return what the server says, in lower case and bounded; only to be searched for words, never to be shown."""
    return read_error(response.content)[1]


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
