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
from app.services.cache.entry import CONFIDENCE_DIGITS, CachedResult
from app.services.inference.results import InferenceResults
from app.services.photos import PhotoPreparer, UploadedPhoto
from app.services.spending.bill import Bill

T = TypeVar("T")


class FurtherModels(Generic[T]):
    """Asks models that are not the service's, and only for what they have not said yet."""

    def __init__(self, results: InferenceResults, preparer: PhotoPreparer) -> None:
        self._results = results
        self._preparer = preparer
        self._calls: SingleFlight[tuple[str, str, int | None], tuple[CachedResult, T | BaseException]] = SingleFlight()

    async def answer(
        self,
        client: ModelClient,
        image_hash: str,
        account_id: int | None,
        opened: Callable[[], AbstractAsyncContextManager[UploadedPhoto]],
        store: Callable[[CachedResult, bool], Awaitable[T]],
        *,
        asks_for: str,
        paying: Callable[[], AbstractAsyncContextManager[Bill]],
    ) -> T:
        """Store what the model says of a picture, and return what `store` does.

        Args:
            client: the model.
            image_hash: SHA-256 of the picture.
            account_id: whose earlier results count; None: those of all accounts.
            opened: holds the picture in memory; used only when the model has to be asked.
            store: gets what the model says, and whether that cost nothing.
            asks_for: whose turn it has to be where the picture is decoded.
            paying: gives the bill for the model's calls, and settles it.

        Raises:
            InvalidRequest: the picture is none that we take.
            LimitReached: the caller may not have the model asked now.
            ModelError: the model gave no valid answer.
            Exception: `store` raised it.
        """

        async def ask_and_store() -> tuple[CachedResult, T | BaseException]:
            earlier = await self._results.latest(image_hash, client.model, account_id=account_id)
            result = earlier or await self._ask(client, opened, asks_for, paying)
            # A failure is this caller's alone: the others store the result for themselves.
            (stored,) = await asyncio.gather(store(result, earlier is not None), return_exceptions=True)
            return result, stored

        key = client.model, image_hash, account_id
        while True:
            is_shared = key in self._calls
            try:
                (result, stored), _ = await self._calls.run(key, ask_and_store)
            except ImageNotFound:
                # The picture was that of another account, which has just deleted it.
                if is_shared:
                    continue
                raise
            if is_shared:
                return await store(result, True)
            if isinstance(stored, BaseException):
                raise stored
            return stored

    async def _ask(
        self,
        client: ModelClient,
        opened: Callable[[], AbstractAsyncContextManager[UploadedPhoto]],
        asks_for: str,
        paying: Callable[[], AbstractAsyncContextManager[Bill]],
    ) -> CachedResult:
        async with opened() as upload, paying() as bill:
            info = self._preparer.inspect(upload.data)
            max_edge = client.settings.image_max_edge_pixels
            photo = await self._preparer.prepare(upload.data, info, max_edge=max_edge, client=asks_for)
            result = await client.classify(photo, bill.meter)
        confidence = round(result.confidence, CONFIDENCE_DIGITS)
        return CachedResult(result.category, confidence, result.description, bill.cost_micros)
