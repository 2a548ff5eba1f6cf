"""The product's main job: answer from the cache, else ask the model once, whoever asks; and log what was answered.

No connection is held while the model works: each step is a short transaction of its own.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from app import photo
from app.clients.base import ModelClient
from app.clients.errors import ModelTimeout
from app.clock import utc_now
from app.config.settings import ImageSettings
from app.errors import HashMismatch, InvalidRequest
from app.observability import metrics
from app.observability.request_id import new_request_id
from app.observability.tracing import span
from app.services.cache.service import CachedResult, CacheService
from app.services.classification.lease import LeaseService
from app.services.photos import PhotoPreparer, UploadedPhoto
from app.services.request_log.record import Answer, Caller, RequestRecord
from app.services.request_log.recorder import RequestRecorder


class ClassifierService:
    """Looks photos up and classifies them; `decoder` is the bounded pool that decodes pixels off the event loop."""

    def __init__(
        self,
        *,
        cache: CacheService,
        recorder: RequestRecorder,
        model_client: ModelClient,
        decoder: ThreadPoolExecutor,
        image_settings: ImageSettings,
        leases: LeaseService,
    ) -> None:
        self._cache = cache
        self._recorder = recorder
        self._model_client = model_client
        self._preparer = PhotoPreparer(decoder, image_settings)
        self._leases = leases
        self._flights: dict[str, asyncio.Task[tuple[CachedResult, bool]]] = {}

    async def look_up(self, image_hash: str, caller: Caller) -> Answer | None:
        """Answer from the cache, or None; a hit is counted and logged, a miss is not."""
        with span("cache.look_up"):
            # Memory does not have to be waited for.
            result = self._cache.peek(image_hash) or await self._cache.get(image_hash)
        if result is None:
            metrics.count(metrics.LOOKUPS_MISSED)
            return None
        answer = _answer(result, caller, from_cache=True)
        await self._recorder.record([_record(answer, caller, image_hash, None)])
        return answer

    async def look_up_many(self, image_hashes: Sequence[str], caller: Caller) -> list[Answer | None]:
        """Answer many hashes in their order with one query; each hit is counted and logged on its own."""
        with span("cache.look_up", hashes=len(image_hashes)):
            results = await self._cache.get_many(image_hashes)
        answers: list[Answer | None] = []
        records: list[RequestRecord] = []
        for image_hash in image_hashes:
            result = results.get(image_hash)
            if result is None:
                metrics.count(metrics.LOOKUPS_MISSED)
                answers.append(None)
                continue
            item = replace(caller, request_id=new_request_id())
            answer = _answer(result, item, from_cache=True)
            answers.append(answer)
            records.append(_record(answer, item, image_hash, None))
        await self._recorder.record(records)
        return answers

    async def classify(self, upload: UploadedPhoto, caller: Caller, *, claimed_hash: str | None = None) -> Answer:
        """Classify an upload: from the cache, else by the model.

        Raises:
            HashMismatch: `claimed_hash` is not the hash of the bytes.
            UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex: the bytes are not a photo we take.
            ModelError: the model gave no valid answer; nothing is cached or logged.
        """
        if claimed_hash is not None and claimed_hash != upload.sha256:
            raise HashMismatch
        result, from_cache = await self._result_of(upload)
        answer = _answer(result, caller, from_cache=from_cache)
        await self._recorder.record([_record(answer, caller, upload.sha256, len(upload.data))])
        return answer

    async def close(self) -> None:
        """Wait for the model calls that are under way: they are paid for, and their results are kept."""
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    async def _result_of(self, upload: UploadedPhoto) -> tuple[CachedResult, bool]:
        """The result and whether it cost nothing. Simultaneous uploads of one photo share one flight."""
        cached = self._cache.peek(upload.sha256)
        if cached is not None:
            return cached, True
        flight = self._flights.get(upload.sha256)
        if flight is not None:
            result, _ = await asyncio.shield(flight)
            return result, True
        flight = asyncio.create_task(self._cached_or_modelled(upload), name=f"classify-{upload.sha256[:12]}")
        self._flights[upload.sha256] = flight
        flight.add_done_callback(lambda done: self._land(upload.sha256, done))
        # A client that hangs up does not cancel the flight: others may be aboard, and the call is paid for.
        return await asyncio.shield(flight)

    def _land(self, image_hash: str, flight: asyncio.Task[tuple[CachedResult, bool]]) -> None:
        del self._flights[image_hash]
        if not flight.cancelled():
            # Marks the exception as seen, also when every caller has hung up.
            flight.exception()

    async def _cached_or_modelled(self, upload: UploadedPhoto) -> tuple[CachedResult, bool]:
        image_hash = upload.sha256
        with span("cache.look_up"):
            cached = await self._cache.get_copy(image_hash)
        if cached is not None:
            return cached, True
        # Before the lease: what is seen to be no photo shall not cost a write. WebP, GIF, BMP, HEIC and AVIF are seen
        # through only by the process that decodes them: it runs under the lease, once for all who upload the photo.
        try:
            info = self._preparer.inspect(upload.data)
        except InvalidRequest:
            # The limits may have been others when it became known.
            cached = await self._cache.get(image_hash)
            if cached is None:
                raise
            return cached, True
        deadline = time.monotonic() + self._model_client.settings.total_timeout_seconds
        while True:
            with span("cache.look_up_and_lease"):
                is_ours, rows = await self._leases.take(image_hash, self._cache.look_up(image_hash))
            try:
                cached = await self._cache.found(rows)
                if cached is not None:
                    return cached, True
                if is_ours:
                    metrics.count(metrics.LOOKUPS_MISSED)
                    return await self._modelled(upload, info, deadline), False
            finally:
                await self._leases.release(image_hash)
            with span("cache.wait_for_another"):
                await self._leases.wait(image_hash, deadline)

    async def _modelled(self, upload: UploadedPhoto, info: photo.PhotoInfo, deadline: float) -> CachedResult:
        """Ask the model, with the lease in hand."""
        if deadline - time.monotonic() < self._model_client.settings.timeout_seconds:
            # Waiting for others has taken what a call may need; nobody waits for twice the time.
            raise ModelTimeout
        max_edge = self._model_client.settings.image_max_edge_pixels
        with span("photo.prepare", format=info.format.value, bytes=len(upload.data)):
            prepared = await self._preparer.prepare(upload.data, info, max_edge=max_edge)
        result = await self._model_client.classify(prepared)
        with span("cache.save"):
            saved = await self._cache.save(
                upload.sha256,
                result,
                model=self._model_client.model,
                together_with=[self._leases.deletion(upload.sha256)],
            )
        self._leases.forget(upload.sha256)
        return saved


def _answer(result: CachedResult, caller: Caller, *, from_cache: bool) -> Answer:
    return Answer(
        request_id=caller.request_id,
        category=result.category,
        confidence=result.confidence,
        description=result.description,
        from_cache=from_cache,
        processing_time_ms=round((time.perf_counter() - caller.started_at) * 1000),
        answered_at=utc_now(),
    )


def _record(answer: Answer, caller: Caller, image_hash: str, image_size: int | None) -> RequestRecord:
    return RequestRecord(
        request_id=answer.request_id,
        user_id=caller.user_id,
        ip_address=caller.ip_address,
        image_hash=image_hash,
        image_size=image_size,
        category=answer.category.value,
        confidence=answer.confidence,
        from_cache=answer.from_cache,
        processing_time_ms=answer.processing_time_ms,
        created_at=answer.answered_at,
    )
