"""The product's main job: answer from the cache, else ask the model, once for all callers; log what was answered.

No connection is held while the model works: each step is a short transaction of its own.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from app.clients.base import LOCAL_MODEL_PREFIX, ModelClient, ModelResult
from app.clients.errors import ModelTimeout
from app.config.settings import ImageSettings
from app.errors import BudgetExhausted, HashMismatch, InvalidRequest
from app.observability import metrics
from app.observability.request_id import new_request_id
from app.observability.tracing import span
from app.photo import PhotoInfo
from app.runtime.background import SingleFlight
from app.runtime.fair_queue import FairQueue
from app.services.cache.entry import CachedResult, answer_of, entry_of
from app.services.cache.service import CacheService
from app.services.classification.fallbacks import Candidate, Role, ask_in_turn
from app.services.classification.outcomes import ApartResult
from app.services.classification.store import ClassificationStore
from app.services.idempotency.key import Keep
from app.services.photos import PhotoPreparer, UploadedPhoto
from app.services.request_log.record import Answer, Caller, RequestRecord
from app.services.request_log.recorder import RequestRecorder
from app.services.spending.bill import Bill
from app.services.spending.service import Spending

T = TypeVar("T")
R = TypeVar("R")


class _Turn(NamedTuple):
    """The models that may be asked about a photo, and `time.monotonic()` at which all of it ends."""

    chain: Sequence[Candidate]
    deadline: float


class ClassifierService:
    """Looks photos up and classifies them.

    `chain` holds the service's model and those that are asked where it cannot answer, `decoder` is the queue of those
    whose pixels are decoded.
    """

    def __init__(
        self,
        *,
        cache: CacheService,
        recorder: RequestRecorder,
        chain: Sequence[Candidate],
        falls_back_on_refusal: bool,
        decoder: FairQueue,
        image_settings: ImageSettings,
        store: ClassificationStore,
        spending: Spending,
    ) -> None:
        self._cache = cache
        self._recorder = recorder
        self._chain = chain
        self._falls_back_on_refusal = falls_back_on_refusal
        self._preparer = PhotoPreparer(decoder, image_settings)
        self._store = store
        self._spending = spending
        self._calls: SingleFlight[str, tuple[CachedResult, bool]] = SingleFlight()

    @property
    def lasting_models(self) -> list[str]:
        """The models whose answers are kept for good: not those of the local model as a fallback."""
        first, *others = (candidate.client.model for candidate in self._chain)
        return [first, *(model for model in others if not model.startswith(LOCAL_MODEL_PREFIX))]

    async def look_up(self, image_hash: str, caller: Caller, *, keep: Keep[Answer] | None = None) -> Answer | None:
        """Answer from the cache, or None; a hit is counted and logged, and kept as `keep` says; a miss is not.

        Raises:
            DuplicateRowError: another request with the same key was answered.
        """
        with span("cache.look_up"):
            # Memory does not have to be waited for.
            result = self._cache.peek(image_hash) or await self._cache.get(image_hash)
        if result is None:
            metrics.count(metrics.LOOKUPS_MISSED)
            return None
        answer = answer_of(result, caller, from_cache=True)
        record = RequestRecord.of(answer, caller, image_hash=image_hash, image_size=None)
        await self._recorder.record([record], kept=keep and keep(answer))
        return answer

    async def look_up_many(
        self, image_hashes: Sequence[str], caller: Caller, *, keep: Keep[list[Answer | None]] | None = None
    ) -> list[Answer | None]:
        """Answer many hashes in their order with one query; each hit is counted and logged on its own.

        The answers are kept as `keep` says if one of them is a hit; raises as `look_up`.
        """
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
            answer = answer_of(result, item, from_cache=True)
            answers.append(answer)
            records.append(RequestRecord.of(answer, item, image_hash=image_hash, image_size=None))
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
        result, from_cache = await self._result_of(upload, caller)
        answer = answer_of(result, caller, from_cache=from_cache)
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
        return await self._with_budget(lambda turn: self._ask_apart(turn, upload, info, caller, find, keep))

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
        turn = _Turn([Candidate(client, name, Role.CHOSEN)], time.monotonic() + client.settings.total_timeout_seconds)
        bill = self._spending.bill(client, caller, name)
        # The lease of no photo: it holds the reservation.
        lease = secrets.token_hex(32)
        if bill.is_free:
            return await self._ask_and_keep(turn, upload, info, caller, bill, lease, keep)
        async with self._store.turn(lease, turn.deadline, bill):
            return await self._ask_and_keep(turn, upload, info, caller, bill, lease, keep)

    async def wait_for_spooled(self, image_hash: str) -> None:
        """Wait until what was paid for this photo and waits in a spool is stored.

        Raises:
            DatabaseUnavailable, ServerBusy: it cannot be stored for now.
            ModelTimeout: it takes too long.
        """
        deadline = time.monotonic() + self._chain[0].client.settings.total_timeout_seconds
        await self._store.wait_for_spooled(image_hash, deadline)

    async def close(self) -> None:
        """Wait for the model calls that are under way: they are paid for, and their results are kept."""
        await self._calls.wait()
        await self._store.close()

    async def _result_of(self, upload: UploadedPhoto, caller: Caller) -> tuple[CachedResult, bool]:
        """Return the result, and whether it cost nothing. Simultaneous uploads of one photo share one call."""
        cached = self._cache.peek(upload.sha256)
        if cached is not None:
            return cached, True
        # A client that hangs up does not cancel the call.
        (result, from_cache), is_shared = await self._calls.run(
            upload.sha256, lambda: self._find_or_ask(upload, caller)
        )
        return result, from_cache or is_shared

    async def _find_or_ask(self, upload: UploadedPhoto, caller: Caller) -> tuple[CachedResult, bool]:
        """Return the result, and whether it cost nothing: copies of the cache, then the database, then the model."""
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
        return await self._with_budget(lambda turn: self._find_or_ask_model(turn, upload, info, caller))

    async def _with_budget(self, ask: Callable[["_Turn"], Awaitable[R]]) -> R:
        """Have `ask` take the models in their turn; where the budget is used up, only those that cost nothing."""
        deadline = time.monotonic() + self._chain[0].client.settings.total_timeout_seconds
        try:
            return await ask(_Turn(self._chain, deadline))
        except BudgetExhausted:
            free = [each for each in self._chain if self._spending.is_free(each.client, each.name)]
            if not free:
                raise
            return await ask(_Turn(free, deadline))

    async def _find_or_ask_model(
        self, turn: "_Turn", upload: UploadedPhoto, info: PhotoInfo, caller: Caller
    ) -> tuple[CachedResult, bool]:
        """Return what the database knows by now, else what a model says; and whether it cost nothing."""
        image_hash = upload.sha256
        bill = self._bill(turn.chain[0], caller)
        async with self._store.turn(image_hash, turn.deadline, bill) as found:
            if found is not None:
                return found, True
            metrics.count(metrics.LOOKUPS_MISSED)
            result, client = await self._ask(turn, upload, info, caller, bill, image_hash)
            with span("cache.save"):
                saved = await self._store.save_and_release(
                    image_hash, result, model=client.model, photo_format=info.format.value, bill=bill
                )
            return saved, False

    async def _ask_apart(
        self,
        turn: "_Turn",
        upload: UploadedPhoto,
        info: PhotoInfo,
        caller: Caller,
        find: Callable[[], Awaitable[CachedResult | None]],
        keep: Callable[[ApartResult], Awaitable[tuple[T, bool]]],
    ) -> T | None:
        image_hash = upload.sha256
        bill = self._bill(turn.chain[0], caller)
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
        turn: "_Turn",
        upload: UploadedPhoto,
        info: PhotoInfo,
        caller: Caller,
        bill: Bill,
        lease: str,
        keep: Callable[[ApartResult], Awaitable[tuple[T, bool]]],
    ) -> T:
        """Have `keep` write down in one transaction what the model says and what it cost, and release the lease."""
        answer, client = await self._ask(turn, upload, info, caller, bill, lease)
        result = entry_of(answer, client.model, bill.cost_micros)
        statements = [] if bill.is_free else self._store.release_statements(lease, bill)
        kept, is_released = await keep(ApartResult(result, from_cache=False, statements=statements))
        if is_released:
            self._store.released_with(lease, bill)
        return kept

    async def _ask(
        self,
        turn: "_Turn",
        upload: UploadedPhoto,
        info: PhotoInfo,
        caller: Caller,
        bill: Bill,
        lease: str,
    ) -> tuple[ModelResult, ModelClient]:
        """Show a photo to the models in their turn, and return what one says, and which."""
        settings = turn.chain[0].client.settings
        if turn.deadline - time.monotonic() < settings.timeout_seconds:
            # Waiting for others has taken what a call may need; no request waits for twice the time.
            raise ModelTimeout
        with span("photo.prepare", format=info.format.value, bytes=len(upload.data)):
            prepared = await self._preparer.prepare(
                upload.data, info, max_edge=settings.image_max_edge_pixels, client=caller.client
            )
        return await ask_in_turn(
            turn.chain,
            prepared,
            bill.meter,
            deadline=turn.deadline,
            falls_back_on_refusal=self._falls_back_on_refusal,
            can_pay=lambda candidate: self._store.turn_to(lease, bill, self._bill(candidate, caller)),
        )

    def _bill(self, candidate: Candidate, caller: Caller) -> Bill:
        return self._spending.bill(candidate.client, caller, candidate.name)
