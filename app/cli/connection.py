"""Asking the service: who may be asked again, after which pause, and whose failing ends the run.

A service that is full says when to come back. One that cannot be reached, or that is not ours, will not do better with
the next photo.
"""

import json
import os
import threading
from itertools import count
from typing import Any
from uuid import uuid4

import httpx2

# The service gives up on a model after 110 seconds, and on its database after 20.
UPLOAD_TIMEOUT_SECONDS = 120.0
TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 10.0
# Fifteen seconds of pauses, in which a service restarts.
MAX_ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 60.0
# Full, limited or starting: a later try may do. After a model's failure (502, 504) another would cost another call.
PASSING_STATUSES = frozenset({429, 503})
# 503 too, but nothing changes before the operator does something.
OPERATORS_CODES = frozenset(
    {"model_authentication_failed", "model_not_found", "model_quota_exhausted", "model_weights_missing"}
)
# What a proxy says of a service that is being restarted.
PROXYS_PASSING_STATUSES = frozenset({429, 502, 503})
# The code of an answer that the service would not give.
NOT_OURS = "http_error"


# In the environment, since other users of the machine can read a command's options.
API_KEY_VARIABLE = "IMAGE_CLASSIFIER_API_KEY"


def _headers(user_id: str | None) -> dict[bytes, bytes]:
    headers = {b"X-User-ID": user_id.encode()} if user_id else {}
    if key := os.environ.get(API_KEY_VARIABLE, "").strip():
        headers[b"X-API-Key"] = key.encode()
    return headers


def _new_key() -> dict[str, str]:
    """The header that makes a request safe to repeat: all tries of it have the same key, and count once."""
    return {"Idempotency-Key": str(uuid4())}


class RequestFailed(Exception):
    """The service refused, or did not answer; `code` is the error's code, the text its message.

    `status` is that of HTTP, 0 where there was no answer. `concerns_all`: it is not about this photo, and whatever
    comes next will fail in the same way.
    """

    def __init__(self, code: str, message: str, *, status: int = 0, concerns_all: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.concerns_all = concerns_all


class Stopped(Exception):
    """The user has had enough, or the service is gone."""


class ServiceConnection:
    """Sends requests and waits as long as it is told to. Several threads may use it; `stop` ends all of them soon."""

    def __init__(self, server: str, *, user_id: str | None = None, connections: int = 1) -> None:
        self._stopped = threading.Event()
        self._has_answered = False
        # Without user and password, which may stand in it.
        self._address = str(httpx2.URL(server).copy_with(userinfo=b""))
        self._http = httpx2.Client(
            base_url=f"{server.rstrip('/')}/api/v1",
            headers=_headers(user_id),
            timeout=httpx2.Timeout(TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def stop(self) -> None:
        """Let every request that is still to be sent, and every pause, end with Stopped."""
        self._stopped.set()

    def check_stopped(self) -> None:
        """Raise Stopped if `stop` was called."""
        if self._stopped.is_set():
            raise Stopped

    def get(self, path: str) -> Any:
        """Return the `data` of a GET below /api/v1.

        Raises:
            RequestFailed: there is none.
            Stopped: `stop` was called.
        """
        return self._call(self._http.build_request("GET", path)).get("data")

    def look_up(self, image_hash: str, perceptual_hash: str | None = None) -> dict[str, Any] | None:
        """Return what the service knows of a photo, or of a similar one; None if it knows nothing.

        Raises:
            RequestFailed, Stopped.
        """
        question = {"image_hash": image_hash}
        if perceptual_hash is not None:
            question["perceptual_hash"] = perceptual_hash
        request = self._http.build_request("POST", "/classify/check-cache", json=question, headers=_new_key())
        try:
            answer = self._call(request)
        except RequestFailed as error:
            # There is nothing of a photo in the question, so it is the wrong address, unless the service is in trouble.
            is_trouble = error.status == 429 or (error.status >= 500 and error.code != NOT_OURS)
            error.concerns_all |= not is_trouble
            raise
        match answer.get("cached"):
            case True:
                return classification(answer)
            case False:
                return None
            case _:
                raise RequestFailed(NOT_OURS, _not_ours(200), concerns_all=True)

    def upload(self, image_hash: str, jpeg: bytes) -> tuple[dict[str, Any], bool]:
        """Return what the service finds, and whether no model was asked for it.

        Raises:
            RequestFailed, Stopped.
        """
        timeout = httpx2.Timeout(UPLOAD_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        files = {"image": ("photo.jpg", jpeg, "image/jpeg")}
        request = self._http.build_request(
            "POST", "/classify", data={"image_hash": image_hash}, files=files, timeout=timeout, headers=_new_key()
        )
        answer = self._call(request, again_after_timeout=False)
        return classification(answer), answer.get("from_cache") is True

    def _call(self, request: httpx2.Request, *, again_after_timeout: bool = True) -> dict[str, Any]:
        """Return a successful answer, after as many tries as make sense.

        Raises:
            RequestFailed, Stopped.
        """
        pause = FIRST_PAUSE_SECONDS
        for attempt in count(1):
            self.check_stopped()
            failure: RequestFailed
            try:
                response = self._http.send(request)
            except httpx2.TransportError as error:
                if isinstance(error, httpx2.ReadTimeout | httpx2.WriteTimeout) and not again_after_timeout:
                    raise RequestFailed("timeout", "the service takes too long to answer") from None
                reason = f"{self._address} cannot be reached: {error} ({type(error).__name__})"
                is_away = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                failure = RequestFailed("unreachable", reason, concerns_all=is_away)
                if is_away and not self._has_answered:
                    raise failure from None
                wait = pause
            except httpx2.RequestError:
                # Bytes that are not what their headers say.
                raise RequestFailed(NOT_OURS, _not_ours(200)) from None
            else:
                self._has_answered = True
                answer = _json(response)
                if answer.get("success") is True:
                    return answer
                failure = _failure(response, answer)
                if not _may_pass(response, failure):
                    raise failure
                wait = _retry_after(response) or pause
            if attempt == MAX_ATTEMPTS:
                raise failure
            self._stopped.wait(min(wait, MAX_PAUSE_SECONDS))
            pause *= 2
        raise AssertionError  # counting does not end


def classification(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the category, confidence and description of an answer.

    Raises:
        RequestFailed: it has none, so it is not the service's.
    """
    data = answer.get("data")
    if isinstance(data, dict) and isinstance(data.get("category"), str):
        confidence, description = data.get("confidence"), data.get("description")
        if isinstance(confidence, int | float) and isinstance(description, str | None):
            return {"category": data["category"], "confidence": confidence, "description": description}
    raise RequestFailed(NOT_OURS, _not_ours(200))


def _json(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _failure(response: httpx2.Response, answer: dict[str, Any]) -> RequestFailed:
    status, error = response.status_code, answer.get("error")
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        return RequestFailed(error["code"], str(error.get("message", "")), status=status)
    # A redirection is not followed: photos go nowhere but where they were sent.
    where = f" (moved to {response.headers['Location']})" if response.has_redirect_location else ""
    return RequestFailed(NOT_OURS, _not_ours(status) + where, status=status)


def _not_ours(status: int) -> str:
    return f"HTTP {status}: this is not the service's answer"


def _may_pass(response: httpx2.Response, failure: RequestFailed) -> bool:
    if failure.code == NOT_OURS:
        return response.status_code in PROXYS_PASSING_STATUSES
    return response.status_code in PASSING_STATUSES and failure.code not in OPERATORS_CODES


def _retry_after(response: httpx2.Response) -> float | None:
    seconds = response.headers.get("Retry-After", "")
    return float(seconds) if seconds.isascii() and seconds.isdigit() else None
