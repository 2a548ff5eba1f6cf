"""Inference on pictures of one's library: ask the model that was named, and keep what it said.

The service's own model goes through the classifier: with one call per photo at a time, and answers of the shared cache;
it fills that only with LIBRARY_SHARES_RESULTS. Any other one goes through `FurtherModels`. An answer is finished and
stored even if its client has hung up: it is paid for. In the request log a person is `account:{id}`: that stays when
the account is renamed, and tells no name.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.statements import Statement, execute
from app.errors import CorruptImage, DatabaseUnavailable, ServerBusy
from app.language.accept import Language
from app.observability.tracing import span
from app.runtime.background import SingleFlight
from app.runtime.memory_budget import MemoryBudget, MemoryTimeoutError
from app.services.cache.entry import CachedResult, answer_of
from app.services.classification.outcomes import ApartResult
from app.services.classification.service import ClassifierService
from app.services.inference.catalogue import DEFAULT_MODEL_NAME, ModelCatalogue
from app.services.inference.further_models import FurtherModels
from app.services.inference.results import Finding, Inference, InferenceResults, OnSaved
from app.services.library.rows import LibraryImage
from app.services.library.service import LibraryService
from app.services.photos import Prepaid, UploadedPhoto
from app.services.request_log.record import Answer, Caller, RequestRecord, user_id_of_account
from app.services.request_log.recorder import RequestRecorder

# A picture is in memory while it is looked at; until there is room, it stays in the storage.
MEMORY_TIMEOUT_SECONDS = 30.0


class InferenceService:
    """Runs models on library pictures; `results` knows what they said."""

    def __init__(
        self,
        *,
        results: InferenceResults,
        library: LibraryService,
        models: ModelCatalogue,
        classifier: ClassifierService,
        further_models: FurtherModels[Inference],
        recorder: RequestRecorder,
        memory: MemoryBudget,
        shares_results: bool = False,
    ) -> None:
        self.results = results
        self._library = library
        self._models = models
        self._classifier = classifier
        self._further_models = further_models
        self._recorder = recorder
        self._memory = memory
        self.shares_results = shares_results
        # Its keys are never shared: it is there because a client that disconnects cancels nothing.
        self._under_way: SingleFlight[object, Inference] = SingleFlight()

    @property
    def batched_model_names(self) -> list[str]:
        """The names by which tasks ask for the model that has batches."""
        return self._models.batched_names

    async def infer(
        self,
        account_id: int,
        image_id: int,
        model_name: str = DEFAULT_MODEL_NAME,
        *,
        caller: Caller | None = None,
        task_id: str | None = None,
        batch_item: str | None = None,
        language: Language | None = None,
        on_saved: OnSaved | None = None,
    ) -> Inference:
        """Have a model look at a picture of this account, and store what it says.

        Args:
            account_id: whose picture it is.
            image_id: which.
            model_name: one of the catalogue's.
            caller: the request that asks; left out where none does.
            task_id: the task that asks. What it has stored already is returned, so it may ask again.
            batch_item: the photo's request in a batch, whose answer counts if there is one.
            language: in which the picture is described, where there is no caller.
            on_saved: is called with the result's id in the transaction that stores it, and undoes it by raising.

        Raises:
            UnknownModel: there is no model of this name.
            ImageNotFound: the account has no such picture, or has no longer.
            InvalidRequest: the picture is none that models are shown.
            ModelError: the model gave no valid answer.
            ServerBusy, DatabaseUnavailable, StorageUnavailable: try again shortly.
        """
        if task_id is not None and (stored := await self.results.of_task(account_id, task_id)) is not None:
            return stored
        self._models.check(model_name)
        image = await self._library.get(account_id, image_id)
        caller = replace(
            caller or Caller(language=language), user_id=user_id_of_account(account_id), account_id=account_id
        )
        inference, _ = await self._under_way.run(
            object(), partial(self._infer, account_id, image, model_name, caller, task_id, batch_item, on_saved)
        )
        return inference

    async def close(self) -> None:
        """Wait for what is under way: it is paid for, and is kept."""
        await self._under_way.wait()

    async def _infer(
        self,
        account_id: int,
        image: LibraryImage,
        model_name: str,
        caller: Caller,
        task_id: str | None,
        batch_item: str | None,
        on_saved: OnSaved | None,
    ) -> Inference:
        client = await self._models.client_of(model_name)

        def finding_of(answer: Answer, task_id: str | None) -> Finding:
            return Finding(
                image_id=image.id,
                task_id=task_id,
                model_name=model_name,
                model=answer.model,
                category=answer.category,
                confidence=answer.confidence,
                description=answer.description,
                from_cache=answer.from_cache,
                processing_time_ms=answer.processing_time_ms,
                request_id=answer.request_id,
                created_at=answer.answered_at,
                cost_micros=answer.cost_micros,
            )

        async def store(answer: Answer, statements: Sequence[Statement] = (), *, is_of_task: bool = True) -> Inference:
            async def finish(connection: AsyncConnection, result_id: int) -> None:
                for statement in statements:
                    await execute(connection, statement)
                if on_saved is not None and is_of_task:
                    await on_saved(connection, result_id)

            finding = finding_of(answer, task_id if is_of_task else None)
            with span("result.save"):
                return await self.results.store(account_id, image.sha256, finding, finish)

        async def keep(found: ApartResult) -> tuple[Inference, bool]:
            answer = await self._log(image, found.result, caller, from_cache=found.from_cache)
            try:
                inference = await store(answer, found.statements)
            except (DatabaseUnavailable, ServerBusy):
                if found.statements:
                    # The next request, or the task's next run, finds it.
                    await self.results.keep_in_spool(account_id, image.sha256, finding_of(answer, None))
                raise
            except Exception:
                if on_saved is not None and not found.from_cache:
                    # The task is no longer this process'. What was paid for is kept: the task's next run finds it.
                    await store(answer, found.statements, is_of_task=False)
                raise
            # A task may have stored another result before: then this one's transaction was none.
            return inference, inference.request_id == answer.request_id

        if client is self._models.service_client:
            prepaid = None
            if batch_item is not None:
                prepaid = await self.results.of_batch(batch_item, client.model)
            if prepaid is not None and not self._classifier.counts(prepaid):
                prepaid = None
            if self.shares_results:
                return await store(await self._classify(image, caller, prepaid))
            return await self._classify_apart(account_id, image, caller, prepaid, store, keep)

        of_whom = None if self.shares_results else account_id
        return await self._further_models.answer(
            client, model_name, image.sha256, of_whom, partial(self.opened, image, caller), caller, keep
        )

    async def _classify(self, image: LibraryImage, caller: Caller, prepaid: Prepaid | None) -> Answer:
        # A photo that is known does not have to be read.
        answer = await self._classifier.look_up(image.sha256, caller)
        if answer is None:
            async with self.opened(image, caller, prepaid) as upload:
                answer = await self._classifier.classify(upload, caller)
        return answer

    async def _classify_apart(
        self,
        account_id: int,
        image: LibraryImage,
        caller: Caller,
        prepaid: Prepaid | None,
        store: Callable[[Answer], Awaitable[Inference]],
        keep: Callable[[ApartResult], Awaitable[tuple[Inference, bool]]],
    ) -> Inference:
        """Answer from the shared cache, else from what the account was told before, else by the service's model."""
        models = self._classifier.lasting_models
        find = partial(self.results.latest, image.sha256, models, account_id=account_id)
        while True:
            if (answer := await self._classifier.look_up(image.sha256, caller)) is not None:
                return await store(answer)
            if (earlier := await find()) is not None:
                inference, _ = await keep(ApartResult(earlier, from_cache=True))
                return inference
            async with self.opened(image, caller, prepaid) as upload:
                kept = await self._classifier.classify_apart(upload, caller, find=find, keep=keep)
            if kept is not None:
                return kept

    @asynccontextmanager
    async def opened(
        self, image: LibraryImage, caller: Caller, prepaid: Prepaid | None = None
    ) -> AsyncIterator[UploadedPhoto]:
        """Read a picture, once there is memory for it, and hold that for the length of the block."""
        try:
            async with self._memory.reserve(
                image.size_bytes, client=caller.client, timeout_seconds=MEMORY_TIMEOUT_SECONDS
            ):
                data = await self._library.read(image)
                # The shared cache believes no claimed hash, not even that of our own storage.
                sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
                if sha256 != image.sha256:
                    logger.error("the stored file of {} has other bytes than were uploaded", image.sha256)
                    raise CorruptImage("The stored file of this image is damaged. Upload it again.")
                yield UploadedPhoto(data, sha256, prepaid=prepaid)
        except MemoryTimeoutError:
            raise ServerBusy(retry_after_seconds=MEMORY_TIMEOUT_SECONDS) from None

    async def _log(self, image: LibraryImage, result: CachedResult, caller: Caller, *, from_cache: bool) -> Answer:
        answer = answer_of(result, caller, from_cache=from_cache)
        record = RequestRecord.of(
            answer, caller, image_hash=image.sha256, image_size=image.size_bytes, of_shared_cache=False
        )
        await self._recorder.record([record])
        return answer
