"""The reference client: ask with the hash, upload only what is not known, wait when told to, try again after a break.

One object serves many threads. Equal photos are asked about once, by whoever comes first; the others wait for it.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx2

from app.cli.photos import CompressedPhoto, UnreadablePhoto, compress

# The service gives up on a model after 110 seconds.
TIMEOUT_SECONDS = 120.0
CONNECT_TIMEOUT_SECONDS = 10.0
MAX_ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 60.0
# Full, limited or starting: a later try may do. After a model's failure (502, 504) another would cost another call.
PASSING_STATUSES = frozenset({429, 503})


class RequestFailed(Exception):
    """The service refused or could not be reached; `code` is the error's code, the text its message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stopped(Exception):
    """The user has had enough."""


@dataclass(frozen=True, slots=True)
class PhotoResult:
    """What became of one file. `status` is hit, uploaded, duplicate (of a photo of this run) or failed.

    Sizes are in bytes; `uploaded_bytes` is what went over the wire for it. `error` is a code, `message` its words.
    """

    path: str
    status: str
    category: str | None = None
    confidence: float | None = None
    description: str | None = None
    image_hash: str | None = None
    original_bytes: int = 0
    compressed_bytes: int = 0
    uploaded_bytes: int = 0
    seconds: float = 0.0
    error: str | None = None
    message: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON and CSV."""
        return asdict(self)


class PhotoClient:
    """Classifies files over HTTP. `classify` may be called from several threads; `stop` ends all of them soon."""

    def __init__(self, server: str, *, user_id: str | None = None, concurrency: int = 4) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._answers: dict[str, Future[tuple[dict[str, Any], int]]] = {}
        self._http = httpx2.Client(
            base_url=f"{server.rstrip('/')}/api/v1",
            headers={"X-User-ID": user_id} if user_id else {},
            timeout=httpx2.Timeout(TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def stop(self) -> None:
        """Let every `classify` end with Stopped before it sends anything more."""
        self._stopped.set()

    def classify(self, path: Path) -> PhotoResult:
        """Compress, ask, upload if need be; never raises for a photo's or the service's failing, but says so.

        Raises:
            Stopped: `stop` was called first.
        """
        self._check_stopped()
        began = time.perf_counter()
        try:
            photo = compress(path)
        except UnreadablePhoto as error:
            return PhotoResult(str(path), "failed", error="unreadable_photo", message=str(error))
        result = PhotoResult(
            str(path),
            "failed",
            image_hash=photo.sha256,
            original_bytes=photo.original_bytes,
            compressed_bytes=len(photo.jpeg),
        )
        try:
            answer, uploaded, is_first = self._answer(photo)
        except RequestFailed as error:
            return replace(result, error=error.code, message=str(error))
        return replace(
            result,
            status="duplicate" if not is_first else "uploaded" if uploaded else "hit",
            category=answer["category"],
            confidence=answer["confidence"],
            description=answer.get("description"),
            uploaded_bytes=uploaded if is_first else 0,
            seconds=round(time.perf_counter() - began, 3),
        )

    def get(self, path: str) -> Any:
        """Return the `data` of a GET below /api/v1.

        Raises:
            RequestFailed: there is none.
        """
        return self._call(lambda: self._http.get(path))["data"]

    def _answer(self, photo: CompressedPhoto) -> tuple[dict[str, Any], int, bool]:
        """Return the classification, the bytes that were uploaded for it, and whether this call was the first."""
        with self._lock:
            known = self._answers.get(photo.sha256)
            mine: Future[tuple[dict[str, Any], int]] = known or Future()
            if known is None:
                self._answers[photo.sha256] = mine
        if known is None:
            try:
                mine.set_result(self._ask(photo))
            except BaseException as error:
                mine.set_exception(error)
                raise
        answer, uploaded = mine.result()
        return answer, uploaded, known is None

    def _ask(self, photo: CompressedPhoto) -> tuple[dict[str, Any], int]:
        question = {"image_hash": photo.sha256}
        known = self._call(lambda: self._http.post("/classify/check-cache", json=question))
        if known["cached"]:
            return known["data"], 0
        files = {"image": ("photo.jpg", photo.jpeg, "image/jpeg")}
        answer = self._call(lambda: self._http.post("/classify", data=question, files=files))
        return answer["data"], len(photo.jpeg)

    def _call(self, send: Callable[[], httpx2.Response]) -> dict[str, Any]:
        """Return a successful answer, after as many tries as make sense.

        Raises:
            RequestFailed, Stopped.
        """
        pause = FIRST_PAUSE_SECONDS
        for attempt in count(1):
            self._check_stopped()
            try:
                response = send()
            except httpx2.HTTPError as error:
                failure = RequestFailed("unreachable", f"{type(error).__name__}: {error}")
                wait = pause
            else:
                answer = _json(response)
                if answer.get("success") is True:
                    return answer
                failure = _failure(response, answer)
                if response.status_code not in PASSING_STATUSES:
                    raise failure
                wait = _retry_after(response) or pause
            if attempt == MAX_ATTEMPTS:
                raise failure
            self._stopped.wait(min(wait, MAX_PAUSE_SECONDS))
            pause *= 2
        raise AssertionError  # counting does not end

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped


def _json(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _failure(response: httpx2.Response, answer: dict[str, Any]) -> RequestFailed:
    error = answer.get("error")
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        return RequestFailed(error["code"], str(error.get("message", "")))
    return RequestFailed("http_error", f"HTTP {response.status_code}: this is not the service's answer")


def _retry_after(response: httpx2.Response) -> float | None:
    seconds = response.headers.get("Retry-After", "")
    return float(seconds) if seconds.isascii() and seconds.isdigit() else None
