"""Models beside the service's own: one call at a time per picture and model in each process, and no shared cache.

The shared cache has one answer per photo, that of the service's model. What another model has said before stands in
somebody's results. Those who ask at the same time share one call, and it is over only when its result is stored.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import ModelClient
from app.database.tables.inference import InferenceResult
from app.database.transactions import read
from app.errors import ImageNotFound, ServerBusy
from app.services.cache.entry import CONFIDENCE_DIGITS, CachedResult
from app.services.photos import PhotoPreparer, UploadedPhoto


class FurtherModels:
    """Asks models that are not the service's, and only for what they have not said yet."""

    def __init__(self, engine: AsyncEngine, preparer: PhotoPreparer) -> None:
        self._engine = engine
        self._preparer = preparer
        self._flights: dict[tuple[str, str], asyncio.Future[CachedResult]] = {}

    @asynccontextmanager
    async def answer(
        self, client: ModelClient, image_hash: str, opened: Callable[[], AbstractAsyncContextManager[UploadedPhoto]]
    ) -> AsyncIterator[tuple[CachedResult, bool]]:
        """Give what the model says of a picture, and whether that cost nothing; it is to be stored within the block.

        Args:
            client: the model.
            image_hash: SHA-256 of the picture.
            opened: holds the picture in memory; used only when the model has to be asked.

        Raises:
            InvalidRequest: the picture is none that we take.
            ModelError: the model gave no valid answer.
        """
        key = client.model, image_hash
        while (flight := self._flights.get(key)) is not None:
            try:
                result = await asyncio.shield(flight)
            except ImageNotFound:
                # It was that of another account, which has just deleted it.
                continue
            yield result, True
            return
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            try:
                earlier = await self._find(client.model, image_hash)
                result = earlier or await self._ask(client, opened)
            except BaseException as error:
                flight.set_exception(error if isinstance(error, Exception) else ServerBusy())
                # Marks it as seen, for the case that nobody else is aboard.
                flight.exception()
                raise
            flight.set_result(result)
            yield result, earlier is not None
        finally:
            del self._flights[key]

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
        self, client: ModelClient, opened: Callable[[], AbstractAsyncContextManager[UploadedPhoto]]
    ) -> CachedResult:
        async with opened() as upload:
            info = self._preparer.inspect(upload.data)
            photo = await self._preparer.prepare(upload.data, info, max_edge=client.settings.image_max_edge_pixels)
            result = await client.classify(photo)
        return CachedResult(result.category, round(result.confidence, CONFIDENCE_DIGITS), result.description)
