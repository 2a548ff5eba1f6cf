"""The reference client: ask with the hash, and upload only what is not known.

One object serves many threads. Equal photos are asked about once, by the first thread; the others wait for it.
"""

import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from app.cli.connection import RequestFailed, ServiceConnection
from app.cli.photos import CompressedPhoto, UnreadablePhoto, compress


@dataclass(frozen=True, slots=True)
class PhotoResult:
    """What became of one file. `status` is hit, uploaded, duplicate (of a photo of this run) or failed.

    `from_cache` is false where a model was asked. Sizes are in bytes; `uploaded_bytes` is what went over the wire for
    it. `error` is a code, `message` its words.
    """

    path: str
    status: str
    category: str | None = None
    confidence: float | None = None
    description: str | None = None
    from_cache: bool | None = None
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


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is known of a photo; `uploaded_bytes` is 0 where its hash was enough."""

    data: dict[str, Any]
    from_cache: bool
    uploaded_bytes: int


class PhotoClient:
    """Classifies files. `classify` may be called from several threads.

    Attributes:
        failure: why no photo can be classified any more; every further `classify` ends with Stopped.
    """

    def __init__(self, service: ServiceConnection) -> None:
        self.failure: RequestFailed | None = None
        self._service = service
        self._lock = threading.Lock()
        self._answers: dict[str, Future[_Answer]] = {}

    def classify(self, path: Path) -> PhotoResult:
        """Compress, ask, upload if need be; never raises for a photo's or the service's failing, but says so.

        Raises:
            Stopped: the connection was stopped first.
        """
        self._service.check_stopped()
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
            answer, is_first = self._answer(photo)
        except RequestFailed as error:
            if error.concerns_all:
                self.failure = error
                self._service.stop()
            return replace(result, error=error.code, message=str(error))
        return replace(
            result,
            status="duplicate" if not is_first else "uploaded" if answer.uploaded_bytes else "hit",
            category=answer.data["category"],
            confidence=answer.data["confidence"],
            description=answer.data["description"],
            from_cache=answer.from_cache or not is_first,
            uploaded_bytes=answer.uploaded_bytes if is_first else 0,
            seconds=round(time.perf_counter() - began, 3),
        )

    def _answer(self, photo: CompressedPhoto) -> tuple[_Answer, bool]:
        """Return the answer, and whether this call was the first for these bytes."""
        with self._lock:
            known = self._answers.get(photo.sha256)
            mine: Future[_Answer] = known or Future()
            if known is None:
                self._answers[photo.sha256] = mine
        if known is None:
            try:
                mine.set_result(self._ask(photo))
            except BaseException as error:
                mine.set_exception(error)
                raise
        return mine.result(), known is None

    def _ask(self, photo: CompressedPhoto) -> _Answer:
        known = self._service.look_up(photo.sha256, photo.perceptual_hash)
        if known is not None:
            return _Answer(known, from_cache=True, uploaded_bytes=0)
        data, from_cache = self._service.upload(photo.sha256, photo.jpeg)
        return _Answer(data, from_cache, len(photo.jpeg))
