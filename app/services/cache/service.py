"""The shared cache: SHA-256 of a photo -> its classification. Only people change a valid entry, by hand.

Memory is asked first, then Redis where there is one, then the database, which alone is the truth. Entries of the
local demo model are provisional: they count only while that model is the configured one, and the first answer of
another model replaces them. They are kept in memory, where only processes of that model look, and not in Redis.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

from loguru import logger
from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import LOCAL_MODEL_PREFIX, ModelResult
from app.clock import utc_now
from app.database.pipeline import DuplicateRowError, Rows, run
from app.database.statements import Statement, execute, rows_of_placeholders, timestamp_text
from app.database.tables.classification import CacheChange, CachedImage
from app.database.tables.columns import UtcDateTime
from app.database.transactions import read, write
from app.errors import CacheEntryNotFound
from app.observability import metrics
from app.services.cache.batching import DataLoader
from app.services.cache.entry import CONFIDENCE_DIGITS, CachedResult
from app.services.cache.invalidation import CHANGES_KEPT
from app.services.cache.tiers import CacheTiers
from app.services.request_log.rollups import Rollups

__all__ = ["CONFIDENCE_DIGITS", "MANUAL_MODEL", "CacheService", "CachedResult"]

# Stands in model_used of entries that a person has corrected; no model replaces them.
MANUAL_MODEL = "manual"
# With each change; so the table stays as short as its changes of two days.
OLD_CHANGES_DELETED = 1000


class CacheService:
    """Reads and fills `image_classification_cache`; hashes are 64 lower-case hex digits.

    Args:
        engine: the database.
        accepts_provisional: entries of the local model count, because it is the configured one.
        rollups: what sums entries and hits up.
        copies: memory and Redis; none when left out.
    """

    def __init__(
        self, engine: AsyncEngine, *, accepts_provisional: bool, rollups: Rollups, copies: CacheTiers | None = None
    ) -> None:
        self._engine = engine
        self._rollups = rollups
        self._accepts_provisional = accepts_provisional
        self._copies = copies or CacheTiers()
        self._reader = DataLoader(self._fetch)

    def peek(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image if memory has it; None says nothing about the database."""
        entry = self._copies.peek(image_hash)
        if entry is not None:
            metrics.count(metrics.LOOKUPS_IN_MEMORY)
        return entry

    async def get_copy(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image if it is found without a trip; None says nothing about the database.

        That is in memory or in Redis, and in SQLite, where looking is cheap and writing waits for others.
        """
        if self._engine.dialect.name == "sqlite":
            return await self.get(image_hash)
        entry = self.peek(image_hash)
        if entry is None and (entry := (await self._copies.find([image_hash])).get(image_hash)) is not None:
            metrics.count(metrics.LOOKUPS_IN_REDIS)
        return entry

    async def get(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image, or None.

        Raises:
            ServerBusy: too many look-ups wait.
            AppError: the database failed.
        """
        return self.peek(image_hash) or (await self._find([image_hash])).get(image_hash)

    async def get_many(self, image_hashes: Sequence[str]) -> Mapping[str, CachedResult]:
        """Return the entries that exist, by hash; raises as `get` does."""
        found: dict[str, CachedResult] = {}
        unknown: list[str] = []
        for image_hash in image_hashes:
            entry = self.peek(image_hash)
            if entry is None:
                unknown.append(image_hash)
            else:
                found[image_hash] = entry
        if unknown:
            found.update(await self._find(unknown))
        return found

    def look_up(self, image_hash: str) -> Statement:
        """Return what looks an entry up as part of somebody else's transaction; its rows are for `found`."""
        return self._selection([image_hash])

    async def found(self, rows: Rows) -> CachedResult | None:
        """Return the entry that `look_up` has found, or None."""
        entry = next(iter((await self._kept(rows)).values()), None)
        if entry is not None:
            metrics.count(metrics.LOOKUPS_IN_DATABASE)
        return entry

    async def model_of(self, image_hash: str) -> str | None:
        """Return who made the entry of one image (a model, or MANUAL_MODEL), or None."""
        query = select(CachedImage.model_used).where(CachedImage.image_hash == image_hash)
        return await read(self._engine, lambda connection: connection.scalar(query))

    async def save(
        self, image_hash: str, result: ModelResult, *, model: str, together_with: Sequence[Statement] = ()
    ) -> CachedResult:
        """Store a model's answer and return the entry that counts from now on.

        The database settles a race: whoever inserts first wins, and the others get the winner's entry.
        `together_with` is committed in the same transaction, whoever wins.
        """
        entry = CachedResult(result.category, round(result.confidence, CONFIDENCE_DIGITS), result.description)
        try:
            await run(
                self._engine,
                [_insert_entry(image_hash, entry, result, model), self._rollups.entry_added(), *together_with],
                writes=True,
            )
        except DuplicateRowError:
            await write(
                self._engine,
                lambda connection: self._replace_provisional(connection, image_hash, result, model, together_with),
            )
            winner = (await self._select([image_hash])).get(image_hash)
            return entry if winner is None else winner
        if model.startswith(LOCAL_MODEL_PREFIX):
            self._copies.keep_in_memory({image_hash: entry})
        else:
            await self._copies.keep({image_hash: entry})
        return entry

    async def correct(self, image_hash: str, category: Category, description: str | None) -> CachedResult:
        """Replace an entry by what a person says; its `hit_count` stays. It counts for everybody, for ever.

        Raises:
            CacheEntryNotFound: there is no entry.
        """
        entry = CachedResult(category, 1.0, description)

        async def update_entry(connection: AsyncConnection) -> None:
            await _lock_entry(connection, image_hash)
            await connection.execute(
                update(CachedImage)
                .where(CachedImage.image_hash == image_hash)
                .values(
                    category=category.value,
                    confidence=Decimal(1),
                    description=description,
                    model_used=MANUAL_MODEL,
                    model_response=None,
                    # MySQL would set it to now.
                    last_hit_at=CachedImage.last_hit_at,
                )
            )
            await _record_change(connection, image_hash)

        await write(self._engine, update_entry)
        await self._copies.forget(image_hash)
        logger.info("cache entry {} was corrected to {}", image_hash, category.value)
        return entry

    async def remove(self, image_hash: str) -> None:
        """Remove an entry, so that the photo is unknown again.

        Raises:
            CacheEntryNotFound: there is no entry.
        """

        async def delete_entry(connection: AsyncConnection) -> int:
            hit_count = await _lock_entry(connection, image_hash)
            await connection.execute(delete(CachedImage).where(CachedImage.image_hash == image_hash))
            await _record_change(connection, image_hash)
            await execute(connection, self._rollups.entry_removed(hit_count))
            return hit_count

        hit_count = await write(self._engine, delete_entry)
        await self._copies.forget(image_hash)
        logger.info("cache entry {} with hit_count {} was removed", image_hash, hit_count)

    async def close(self) -> None:
        """Wait for the queries that are under way."""
        await self._reader.close()

    async def _find(self, image_hashes: Sequence[str]) -> dict[str, CachedResult]:
        """Return what exists, and count for each who asks where it was, also where several share a query."""
        found = await self._reader.find(image_hashes)
        for image_hash in image_hashes:
            if image_hash in found:
                _, is_in_redis = found[image_hash]
                metrics.count(metrics.LOOKUPS_IN_REDIS if is_in_redis else metrics.LOOKUPS_IN_DATABASE)
        return {image_hash: entry for image_hash, (entry, _) in found.items()}

    async def _fetch(self, image_hashes: list[str]) -> Mapping[str, tuple[CachedResult, bool]]:
        """Return what exists, from Redis or else with one query, and whether it was in Redis."""
        in_redis = await self._copies.find(image_hashes)
        found = {image_hash: (entry, True) for image_hash, entry in in_redis.items()}
        if rest := [each for each in image_hashes if each not in found]:
            found.update((image_hash, (entry, False)) for image_hash, entry in (await self._select(rest)).items())
        return found

    async def _select(self, image_hashes: Collection[str]) -> dict[str, CachedResult]:
        (rows,) = await run(self._engine, [self._selection(image_hashes)], writes=False)
        return await self._kept(rows)

    def _selection(self, image_hashes: Collection[str]) -> Statement:
        is_provisional = f"SUBSTR(model_used, 1, {len(LOCAL_MODEL_PREFIX)}) = '{LOCAL_MODEL_PREFIX}'"
        text = (
            f"SELECT image_hash, category, confidence, description, {is_provisional}"  # noqa: S608 - placeholders
            f" FROM image_classification_cache WHERE image_hash IN {rows_of_placeholders(1, len(image_hashes))}"
        )
        if not self._accepts_provisional:
            text += f" AND NOT {is_provisional}"
        return Statement(text, list(image_hashes))

    async def _kept(self, rows: Rows) -> dict[str, CachedResult]:
        """Return the entries of `_selection`'s rows; memory and Redis then know them too."""
        entries: dict[str, CachedResult] = {}
        provisional: dict[str, CachedResult] = {}
        for image_hash, category, confidence, description, is_provisional in rows:
            entry = CachedResult(Category(category), float(confidence), description)
            (provisional if is_provisional else entries)[image_hash] = entry
        self._copies.keep_in_memory(provisional)
        await self._copies.keep(entries)
        return entries | provisional

    async def _replace_provisional(
        self,
        connection: AsyncConnection,
        image_hash: str,
        result: ModelResult,
        model: str,
        together_with: Sequence[Statement],
    ) -> None:
        if not self._accepts_provisional:
            replaced = await connection.execute(
                update(CachedImage)
                .where(CachedImage.image_hash == image_hash, _is_provisional())
                .values(
                    category=result.category.value,
                    confidence=Decimal(str(round(result.confidence, CONFIDENCE_DIGITS))),
                    description=result.description,
                    model_used=model,
                    model_response=result.response,
                )
            )
            if replaced.rowcount:
                await _record_change(connection, image_hash)
        for statement in together_with:
            await execute(connection, statement)


def _insert_entry(image_hash: str, entry: CachedResult, result: ModelResult, model: str) -> Statement:
    columns = (
        "image_hash, category, confidence, description, model_used, model_response, hit_count, created_at, last_hit_at"
    )
    now = timestamp_text(utc_now())
    values = (
        image_hash,
        entry.category.value,
        entry.confidence,
        entry.description,
        model,
        json.dumps(result.response),
        1,
        now,
        now,
    )
    return Statement(
        f"INSERT INTO image_classification_cache ({columns}) VALUES {rows_of_placeholders(1, len(values))}",  # noqa: S608 - placeholders
        values,
    )


def _is_provisional() -> ColumnElement[bool]:
    return CachedImage.model_used.startswith(LOCAL_MODEL_PREFIX, autoescape=True)


async def _lock_entry(connection: AsyncConnection, image_hash: str) -> int:
    """Return the entry's `hit_count`, which nobody changes before the end of the transaction.

    SQLite has no FOR UPDATE: a transaction that writes holds the only write lock from its beginning.
    """
    query = select(CachedImage.hit_count).where(CachedImage.image_hash == image_hash).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise CacheEntryNotFound
    return row.hit_count or 0


async def _record_change(connection: AsyncConnection, image_hash: str) -> None:
    """Tell every process, and delete what all have known for long."""
    await connection.execute(
        insert(CacheChange).values(image_hash=image_hash, changed_at=func.current_timestamp(type_=UtcDateTime()))
    )
    now = (await connection.execute(select(func.current_timestamp(type_=UtcDateTime())))).scalar_one()
    old = select(CacheChange.id).where(CacheChange.changed_at < now - CHANGES_KEPT).limit(OLD_CHANGES_DELETED)
    if ids := (await connection.scalars(old)).all():
        await connection.execute(delete(CacheChange).where(CacheChange.id.in_(ids)))
