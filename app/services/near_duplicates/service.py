"""Before a model is paid for a new photo: is it nearly the same as one that is known?

Both steps are best effort: whatever goes wrong with them, the model is asked as if there were none.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from loguru import logger
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.base import LOCAL_MODEL_PREFIX
from app.clock import utc_now
from app.database.pipeline import run
from app.database.statements import Statement, execute
from app.database.tables.classification import CachedImage
from app.database.transactions import write
from app.errors import AppError
from app.observability.tracing import span
from app.services.cache.aliases import insert_alias, lock_original
from app.services.cache.entry import CachedResult
from app.services.cache.rows import insert_entry, insert_translations, replace_provisional
from app.services.cache.service import CacheService
from app.services.near_duplicates.rows import Neighbour, neighbour_in, select_neighbour
from app.services.request_log.rollups import Rollups

# A look-up takes 3 ms among five million photos (docs/quality.md). One that takes this long would cost its photo more
# than it saves.
LOOK_UP_SECONDS = 1.0
# Each keeps a connection busy for ten times as long as one by SHA-256.
MAX_LOOK_UPS = 2
# After so many of one request it is the next request's turn.
LOOK_UPS_PER_TRIP = 20


class NearDuplicates:
    """Finds the entry of a similar photo, and stores what it says for a new one."""

    def __init__(self, engine: AsyncEngine, *, cache: CacheService, rollups: Rollups) -> None:
        self._engine = engine
        self._cache = cache
        self._rollups = rollups
        self._turns = asyncio.Semaphore(MAX_LOOK_UPS)

    async def find(self, perceptual_hash: int) -> Neighbour | None:
        """Return the nearest entry within MAX_DISTANCE that may be repeated, if all there agree; nothing is raised.

        None is also what a database that is away or slow gives.
        """
        return (await self.find_many([perceptual_hash])).get(perceptual_hash)

    async def find_many(self, perceptual_hashes: Sequence[int]) -> dict[int, Neighbour]:
        """Return what `find` does, by hash; only what was found within LOOK_UP_SECONDS for all of them."""
        found: dict[int, Neighbour] = {}
        try:
            with span("cache.look_up_similar", hashes=len(perceptual_hashes)):
                async with asyncio.timeout(LOOK_UP_SECONDS):
                    for start in range(0, len(perceptual_hashes), LOOK_UPS_PER_TRIP):
                        async with self._turns:
                            found |= await self._neighbours(perceptual_hashes[start : start + LOOK_UPS_PER_TRIP])
        except (AppError, TimeoutError) as error:
            logger.info("no similar photo was looked for ({})", type(error).__name__)
        return found

    async def adopt(
        self, image_hash: str, neighbour: Neighbour, statements: Sequence[Statement] = ()
    ) -> tuple[CachedResult | None, bool]:
        """Store the answer of a neighbour for another photo, which is an alias of it from then on.

        Args:
            image_hash: the photo.
            neighbour: what `find` has returned for it.
            statements: belong to the transaction.

        Returns:
            What is answered, or None where the neighbour was removed meanwhile, or may not be repeated any longer; and
            whether it is stored. The database may be away: the answer is right all the same.
        """
        try:
            try:
                entry = await write(self._engine, partial(self._store, image_hash, neighbour, statements))
            except IntegrityError:
                # Another process has stored an entry of this photo in the same moment.
                entry = await write(self._engine, partial(self._store, image_hash, neighbour, statements))
        except AppError as error:
            logger.info("the answer of a similar photo was not stored ({})", error.code)
            return neighbour.entry, False
        if entry is not None:
            provisional = entry.model.startswith(LOCAL_MODEL_PREFIX)
            await self._cache.keep({image_hash: entry}, are_provisional=provisional)
        return entry, entry is not None

    async def _neighbours(self, values: Sequence[int]) -> dict[int, Neighbour]:
        look_ups = [
            select_neighbour(self._engine.dialect.name, value, accepts_provisional=self._cache.accepts_provisional)
            for value in values
        ]
        answers = await run(self._engine, look_ups, writes=False, quietly=True)
        neighbours = zip(values, map(neighbour_in, answers), strict=True)
        return {value: neighbour for value, neighbour in neighbours if neighbour is not None}

    async def _store(
        self, image_hash: str, neighbour: Neighbour, statements: Sequence[Statement], connection: AsyncConnection
    ) -> CachedResult | None:
        entry = await lock_original(
            connection,
            neighbour.entry_id,
            neighbour.distance,
            accepts_provisional=self._cache.accepts_provisional,
        )
        if entry is None:
            return None
        response = {"similar_to": neighbour.image_hash, "distance": neighbour.distance}
        earlier = select(CachedImage.id).where(CachedImage.image_hash == image_hash)
        if await connection.scalar(earlier) is None:
            await execute(connection, insert_entry(image_hash, entry, response, utc_now()))
            for statement in insert_translations(image_hash, entry):
                await execute(connection, statement)
            await execute(connection, self._rollups.entry_added())
            await insert_alias(connection, image_hash, neighbour.entry_id, neighbour.distance)
        elif await replace_provisional(
            connection, image_hash, entry, response, accepts_provisional=self._cache.accepts_provisional
        ):
            await insert_alias(connection, image_hash, neighbour.entry_id, neighbour.distance)
        for statement in statements:
            await execute(connection, statement)
        return entry
