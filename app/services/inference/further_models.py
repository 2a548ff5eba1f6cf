"""Models beside the service's own: one call at a time per picture and model in each process, and no shared cache.

The shared cache has one answer per photo, that of the service's model. What another model has said before stands in
the results of an account, and is used again for this account, or with LIBRARY_SHARES_RESULTS for all. Requests that ask
at the same time, and may have the same result, share one call, which ends only when it is stored: a later request finds
it there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from app.clients.base import ModelClient
from app.errors import ImageNotFound
from app.runtime.background import SingleFlight
from app.services.cache.entry import CachedResult
from app.services.classification.outcomes import ApartResult
from app.services.classification.service import ClassifierService
from app.services.inference.results import InferenceResults
from app.services.photos import UploadedPhoto
from app.services.request_log.record import Caller

T = TypeVar("T")


class FurtherModels(Generic[T]):
    """Asks models that are not the service's, and only for what they have not said yet."""

    def __init__(self, results: InferenceResults, classifier: ClassifierService) -> None:
        self._results = results
        self._classifier = classifier
        self._calls: SingleFlight[tuple[str, str, int | None], tuple[CachedResult, T | BaseException]] = SingleFlight()

    async def answer(
        self,
        client: ModelClient,
        name: str,
        image_hash: str,
        account_id: int | None,
        opened: Callable[[], AbstractAsyncContextManager[UploadedPhoto]],
        caller: Caller,
        keep: Callable[[ApartResult], Awaitable[tuple[T, bool]]],
    ) -> T:
        """Keep what the model says of a picture, and return what `keep` does.

        Args:
            client: the model.
            name: what it is called in MODELS.
            image_hash: SHA-256 of the picture.
            account_id: whose earlier results count; None: those of all accounts.
            opened: holds the picture in memory; used only when the model has to be asked.
            caller: who asks, and pays if the model has to be asked.
            keep: as with `ClassifierService.classify_by`.

        Raises:
            InvalidRequest: the picture is none that we take.
            LimitReached: the caller may not have the model asked now.
            ModelError: the model gave no valid answer.
            Exception: `keep` raised it.
        """

        async def keep_for_all(found: ApartResult) -> tuple[tuple[CachedResult, T | BaseException], bool]:
            # A failure is this caller's alone: the others keep the result for themselves.
            (kept,) = await asyncio.gather(keep(found), return_exceptions=True)
            if isinstance(kept, BaseException):
                return (found.result, kept), False
            return (found.result, kept[0]), kept[1]

        async def ask_and_keep() -> tuple[CachedResult, T | BaseException]:
            await self._classifier.wait_for_spooled(image_hash)
            earlier = await self._results.latest(image_hash, [client.model], account_id=account_id)
            if earlier is not None:
                outcome, _ = await keep_for_all(ApartResult(earlier, from_cache=True))
                return outcome
            async with opened() as upload:
                return await self._classifier.classify_by(client, name, upload, caller, keep=keep_for_all)

        key = client.model, image_hash, account_id
        while True:
            is_shared = key in self._calls
            try:
                (result, kept), _ = await self._calls.run(key, ask_and_keep)
            except ImageNotFound:
                # The picture was that of another account, which has just deleted it.
                if is_shared:
                    continue
                raise
            if is_shared:
                kept, _ = await keep(ApartResult(result, from_cache=True))
            elif isinstance(kept, BaseException):
                raise kept
            return kept
