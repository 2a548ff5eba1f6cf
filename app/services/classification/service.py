"""The product's main job: answer from the cache, else ask the model, once for all callers; log what was answered.

No connection is held while the model works: each step is a short transaction of its own.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from app.clients.base import ModelClient
from app.errors import HashMismatch, InvalidRequest, LimitReached
from app.observability import metrics
from app.observability.request_id import new_request_id
from app.observability.tracing import span
from app.photo import PhotoInfo
from app.runtime.background import SingleFlight
from app.services.cache.entry import CachedResult, answer_of, entry_of
from app.services.cache.service import CacheService
from app.services.classification.asking import ModelAsking, Turn
from app.services.classification.fallbacks import Role
from app.services.classification.outcomes import ApartResult, Outcome
from app.services.classification.similar import LookedUp, SimilarPhotos
from app.services.classification.store import ClassificationStore
from app.services.classification.translating import Translating
from app.services.idempotency.key import Keep
from app.services.near_duplicates.service import NearDuplicates
from app.services.photos import PhotoPreparer, UploadedPhoto
from app.services.request_log.record import Answer, Caller, RequestRecord
from app.services.request_log.recorder import RequestRecorder
from app.services.spending.bill import Bill
from app.services.spending.limits import photo_uncounted

T = TypeVar("T")


class ClassifierService:
    """Looks photos up and classifies them.

    `asking` shows them to the models, `translating` has known ones described in another language. Without
    `near_duplicates` photos are known by bytes alone.
    """

    def __init__(
        self,
        *,
        cache: CacheService,
        recorder: RequestRecorder,
        asking: ModelAsking,
        preparer: PhotoPreparer,
        store: ClassificationStore,
        near_duplicates: NearDuplicates | None,
        translating: Translating,
    ) -> None:
        self._cache = cache
        self._recorder = recorder
        self._preparer = preparer
        self._store = store
        self._similar = SimilarPhotos(near_duplicates, preparer)
        self._asking = asking
        self._translating = translating
        # The models whose answers are kept for good: not those of the local model as a fallback.
        self.lasting_models = self._asking.lasting_models
        # Whether what a batch has brought stands in the place of a call.
        self.counts = self._asking.counts
        self._calls: SingleFlight[str, Outcome] = SingleFlight()

    async def look_up(
        self,
        image_hash: str,
        caller: Caller,
        *,
        perceptual_hash: int | None = None,
        keep: Keep[Answer] | None = None,
    ) -> Answer | None:
        """Answer from the cache, or None; a hit is counted and logged, and kept as `keep` says; a miss is not.

        With `perceptual_hash` the entry of a similar photo answers where there is none. No alias is stored of that: the
        two hashes are the client's word, and the entry of a photo is for all.

        Raises:
            DuplicateRowError: another request with the same key was answered.
        """
        with span("cache.look_up"):
            # Memory does not have to be waited for.
            result = self._cache.peek(image_hash) or await self._cache.get(image_hash)
        similar = None
        if result is None:
            metrics.count(metrics.LOOKUPS_MISSED)
            outcome = await self._similar.look_up(perceptual_hash)
            if outcome is None:
                return None
            result, _, similar = outcome
        answer = answer_of(result, caller, from_cache=True, similar=similar)
        record = RequestRecord.of(answer, caller, image_hash=image_hash, image_size=None)
        await self._recorder.record([record], kept=keep and keep(answer))
        return answer

    async def look_up_many(
        self, photos: Sequence[LookedUp], caller: Caller, *, keep: Keep[list[Answer | None]] | None = None
    ) -> list[Answer | None]:
        """Answer many hashes in their order, as `look_up`; each hit is counted and logged on its own.

        The answers are kept as `keep` says if one of them is a hit; raises as `look_up`.
        """
        with span("cache.look_up", hashes=len(photos)):
            results = await self._cache.get_many([photo.image_hash for photo in photos])
        answers: list[Answer | None] = []
        records: list[RequestRecord] = []
        for photo, outcome in zip(photos, await self._similar.complete(photos, results), strict=True):
            if outcome is None:
                answers.append(None)
                continue
            item = replace(caller, request_id=new_request_id())
            answer = answer_of(outcome.entry, item, from_cache=True, similar=outcome.similar)
            answers.append(answer)
            records.append(RequestRecord.of(answer, item, image_hash=photo.image_hash, image_size=None))
        await self._recorder.record(records, kept=keep and keep(answers))
        return answers

    async def classify(
        self,
        upload: UploadedPhoto,
        caller: Caller,
        *,
        claimed_hash: str | None = None,
        keep: Keep[Answer] | None = None,
    ) -> Answer:
        """Classify an upload: from the cache, else by the model. The answer is kept as `keep` says.

        Raises:
            DuplicateRowError: another request with the same key was answered.
            HashMismatch: `claimed_hash` is not the hash of the bytes.
            UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex: the bytes are not a photo we take.
            LimitReached: the photo is new, and the caller may not ask for a new one now.
            ServerBusy: too many photos wait to be decoded.
            ModelError: the model gave no valid answer; nothing is cached or logged.
        """
        if claimed_hash is not None and claimed_hash != upload.sha256:
            raise HashMismatch
        outcome = await self._result_of(upload, caller)
        if self._translating.lacks(outcome, caller.language):
            outcome = await self._translating.complete(outcome, upload, caller)
        result, from_cache, similar = outcome
        answer = answer_of(result, caller, from_cache=from_cache, similar=similar)
        record = RequestRecord.of(answer, caller, image_hash=upload.sha256, image_size=len(upload.data))
        await self._recorder.record([record], kept=keep and keep(answer))
        return answer

    async def classify_apart(
        self,
        upload: UploadedPhoto,
        caller: Caller,
        *,
        find: Callable[[], Awaitable[CachedResult | None]],
        keep: Callable[[ApartResult], Awaitable[tuple[T, bool]]],
    ) -> T | None:
        """Have the model look at a photo for one account, without a trace of it in the shared cache.

        The model is asked by one caller at a time, as always; but each account pays for itself.

        Args:
            upload: the photo.
            caller: who asks.
            find: what the model has said to this account before, looked for when it is the caller's turn.
            keep: keeps a result; says too whether it has committed the statements that belong to it.

        Returns:
            What `keep` does, or None where the shared cache has an entry by now.

        Raises:
            InvalidRequest, LimitReached, ModelError: as `classify`.
            Exception: `keep` raised it.
        """
        info = self._preparer.inspect(upload.data)
        return await self._asking.with_budget(lambda turn: self._ask_apart(turn, upload, info, caller, find, keep))

    async def classify_by(
        self,
        client: ModelClient,
        name: str,
        upload: UploadedPhoto,
        caller: Caller,
        *,
        keep: Callable[[ApartResult], Awaitable[tuple[T, bool]]],
    ) -> T:
        """Have another model than the service's look at a photo; other callers are not waited for.

        Args:
            client: the model.
            name: what it is called in MODELS.
            upload: the photo.
            caller: who asks.
            keep: as with `classify_apart`.

        Returns:
            What `keep` does.

        Raises:
            InvalidRequest, LimitReached, ModelError: as `classify`.
            Exception: `keep` raised it.
        """
        info = self._preparer.inspect(upload.data)
        turn = self._asking.turn_of(client, name)
        bill = self._asking.bill(turn.first(), caller)
        if bill.is_free and self._asking.costs_nothing(turn):
            return await self._ask_and_keep(turn, upload, info, caller, bill, None, keep)
        # The lease of no photo: it holds the reservation.
        lease = secrets.token_hex(32)
        async with self._store.turn(lease, turn.deadline, bill):
            return await self._ask_and_keep(turn, upload, info, caller, bill, lease, keep)

    async def wait_for_spooled(self, image_hash: str) -> None:
        """Wait until what was paid for this photo and waits in a spool is stored.

        Raises:
            DatabaseUnavailable, ServerBusy: it cannot be stored for now.
            ModelTimeout: it takes too long.
        """
        await self._store.wait_for_spooled(image_hash, self._asking.turn().deadline)

    async def close(self) -> None:
        """Wait for the model calls that are under way: they are paid for, and their results are kept."""
        await self._calls.wait()
        await self._translating.close()
        await self._store.close()

    async def _result_of(self, upload: UploadedPhoto, caller: Caller) -> Outcome:
        """Return what is answered. Simultaneous uploads of one photo share one call."""
        cached = self._cache.peek(upload.sha256)
        if cached is not None:
            return Outcome(cached, from_cache=True)
        # A client that hangs up does not cancel the call.
        outcome, is_shared = await self._calls.run(upload.sha256, lambda: self._find_or_ask(upload, caller))
        return outcome._replace(from_cache=outcome.from_cache or is_shared)

    async def _find_or_ask(self, upload: UploadedPhoto, caller: Caller) -> Outcome:
        """Return what copies of the cache know, else the database, else what a model says."""
        image_hash = upload.sha256
        with span("cache.look_up"):
            cached = await self._cache.get_copy(image_hash)
        if cached is not None:
            return Outcome(cached, from_cache=True)
        # Before the lease: what is seen to be no photo shall not cost a write. WebP, GIF, BMP, HEIC and AVIF are seen
        # through only by the process that decodes them: it runs under the lease, once for all who upload the photo.
        try:
            info = self._preparer.inspect(upload.data)
        except InvalidRequest:
            # The limits may have been others when it became known.
            cached = await self._cache.get(image_hash)
            if cached is None:
                raise
            return Outcome(cached, from_cache=True)
        try:
            return await self._asking.with_budget(lambda turn: self._find_or_ask_model(turn, upload, info, caller))
        except LimitReached:
            if (outcome := await self._free_answer(upload, info, caller)) is None:
                raise
            return outcome

    async def _find_or_ask_model(self, turn: Turn, upload: UploadedPhoto, info: PhotoInfo, caller: Caller) -> Outcome:
        """Return what the database knows by now, else what it knows of a similar photo, else what a model says."""
        image_hash = upload.sha256
        bill = self._asking.bill(turn.first(upload.prepaid), caller, upload.prepaid)
        async with self._store.turn(image_hash, turn.deadline, bill) as found:
            if found is not None:
                return Outcome(found, from_cache=True)
            metrics.count(metrics.LOOKUPS_MISSED)
            prepared = await self._asking.prepare(turn, upload, info, caller)
            perceptual_hash = await self._similar.hash_of(prepared, caller)
            release = [*self._store.release_statements(image_hash, bill), *photo_uncounted(bill.limits)]
            if upload.prepaid is None:
                outcome, is_released = await self._similar.answer(image_hash, perceptual_hash, release)
                if is_released:
                    self._store.released_with(image_hash, bill)
                if outcome is not None:
                    return outcome
            given = await self._asking.ask(turn, prepared, caller, bill, image_hash, upload.prepaid)
            with span("cache.save"):
                saved = await self._store.save_and_release(
                    image_hash,
                    given.result,
                    model=given.model,
                    photo_format=info.format.value,
                    bill=bill,
                    # Of what is not to leave the server, no more is kept than has to be.
                    perceptual_hash=None if given.role is Role.LOCAL_ONLY else perceptual_hash,
                )
            return Outcome(saved, from_cache=False)

    async def _free_answer(self, upload: UploadedPhoto, info: PhotoInfo, caller: Caller) -> Outcome | None:
        """Return what is known of a similar photo, which a caller at its limit may have: it costs nothing."""
        if not self._similar.is_on:
            return None
        prepared = await self._asking.prepare(self._asking.turn(), upload, info, caller)
        perceptual_hash = await self._similar.hash_of(prepared, caller)
        outcome, _ = await self._similar.answer(upload.sha256, perceptual_hash)
        return outcome

    async def _ask_apart(
        self,
        turn: Turn,
        upload: UploadedPhoto,
        info: PhotoInfo,
        caller: Caller,
        find: Callable[[], Awaitable[CachedResult | None]],
        keep: Callable[[ApartResult], Awaitable[tuple[T, bool]]],
    ) -> T | None:
        image_hash = upload.sha256
        bill = self._asking.bill(turn.first(upload.prepaid), caller, upload.prepaid)
        async with self._store.turn(image_hash, turn.deadline, bill) as found:
            if found is not None:
                return None
            if (earlier := await find()) is not None:
                kept, _ = await keep(ApartResult(earlier, from_cache=True))
                return kept
            metrics.count(metrics.LOOKUPS_MISSED)
            return await self._ask_and_keep(turn, upload, info, caller, bill, image_hash, keep)

    async def _ask_and_keep(
        self,
        turn: Turn,
        upload: UploadedPhoto,
        info: PhotoInfo,
        caller: Caller,
        bill: Bill,
        lease: str | None,
        keep: Callable[[ApartResult], Awaitable[tuple[T, bool]]],
    ) -> T:
        """Have `keep` write down in one transaction what is said and what it cost, and release the lease, if any."""
        prepared = await self._asking.prepare(turn, upload, info, caller)
        given = await self._asking.ask(turn, prepared, caller, bill, lease or "", upload.prepaid)
        result = entry_of(given.result, given.model, bill.cost_micros)
        statements = [] if lease is None else self._store.release_statements(lease, bill)
        kept, is_released = await keep(ApartResult(result, from_cache=False, statements=statements))
        if is_released and lease is not None:
            self._store.released_with(lease, bill)
        return kept
