"""Models beside the service's own: one call at a time per picture and model in each process, and no shared cache.

The shared cache has one answer per photo, that of the service's model. What another model has said before stands in
the results of an account. Requests that ask at the same time share one call, which ends only when its result is stored:
a later request finds it there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import ModelClient
from app.database.tables.inference import InferenceResult
from app.database.transactions import read
from app.errors import ImageNotFound
from app.runtime.background import SingleFlight
from app.services.cache.entry import CONFIDENCE_DIGITS, CachedResult
from app.services.photos import PhotoPreparer, UploadedPhoto

T = TypeVar("T")


class FurtherModels(Generic[T]):
    """Asks models that are not the service's, and only for what they have not said yet."""

    def __init__(self, engine: AsyncEngine, preparer: PhotoPreparer) -> None:
        self._engine = engine
        self._preparer = preparer
        self._calls: SingleFlight[tuple[str, str], tuple[CachedResult, T | BaseException]] = SingleFlight()

    async def answer(
        self,
        client: ModelClient,
        image_hash: str,
        opened: Callable[[], AbstractAsyncContextManager[UploadedPhoto]],
        store: Callable[[CachedResult, bool], Awaitable[T]],
        *,
        asks_for: str,
    ) -> T:
        """Store what the model says of a picture, and return what `store` does.

        Args:
            client: the model.
            image_hash: SHA-256 of the picture.
            opened: holds the picture in memory; used only when the model has to be asked.
            store: gets what the model says, and whether that cost nothing.
            asks_for: whose turn it has to be where the picture is decoded.

        Raises:
            InvalidRequest: the picture is none that we take.
            ModelError: the model gave no valid answer.
            Exception: `store` raised it.
        """

        async def ask_and_store() -> tuple[CachedResult, T | BaseException]:
            earlier = await self._find(client.model, image_hash)
            result = earlier or await self._ask(client, opened, asks_for)
            # A failure is this caller's alone: the others store the result for themselves.
            (stored,) = await asyncio.gather(store(result, earlier is not None), return_exceptions=True)
            return result, stored

        key = client.model, image_hash
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

    async def _find(self, model: str, image_hash: str) -> CachedResult | None:
        row = InferenceResult

        async def select_latest(connection: AsyncConnection) -> CachedResult | None:
            query = (
                select(row.model, row.category, row.confidence, row.description)
                .where(row.image_hash == image_hash, row.model == model)
                .order_by(row.id.desc())
                .limit(1)
            )
            found = (await connection.execute(query)).one_or_none()
            # MySQL takes names for equal that differ in case.
            if found is None or found.model != model:
                return None
            return CachedResult(Category(found.category), float(found.confidence), found.description)

        return await read(self._engine, select_latest)

    async def _ask(
        self, client: ModelClient, opened: Callable[[], AbstractAsyncContextManager[UploadedPhoto]], asks_for: str
    ) -> CachedResult:
        async with opened() as upload:
            info = self._preparer.inspect(upload.data)
            max_edge = client.settings.image_max_edge_pixels
            photo = await self._preparer.prepare(upload.data, info, max_edge=max_edge, client=asks_for)
            result = await client.classify(photo)
        return CachedResult(result.category, round(result.confidence, CONFIDENCE_DIGITS), result.description)
