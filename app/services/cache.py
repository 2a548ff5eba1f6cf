"""The shared cache: SHA-256 of a photo -> its classification. Only people change a valid entry, by hand.

Memory is asked first, then Redis where there is one, then the database, which alone is the truth. Entries of the
local demo model are provisional: they count only while that model is the configured one, and the first answer of
another model replaces them. They are kept in memory, where only processes of that model look, and not in Redis.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from decimal import Decimal

from loguru import logger
from sqlalchemy import ColumnElement, bindparam, delete, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import LOCAL_MODEL_PREFIX, ModelResult
from app.clock import utc_now
from app.database.statements import execute
from app.database.tables import CacheChange, CachedImage, UtcDateTime
from app.database.transactions import read, write
from app.errors import CacheEntryNotFound
from app.services.cache_copies import CacheCopies
from app.services.cache_watch import CHANGES_KEPT
from app.services.cached_result import CONFIDENCE_DIGITS, CachedResult
from app.services.group_reader import GroupReader
from app.services.rollups import Rollups

__all__ = ["CONFIDENCE_DIGITS", "MANUAL_MODEL", "MODEL_USED_MAX_LENGTH", "CacheService", "CachedResult"]

MODEL_USED_MAX_LENGTH = 50
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
        self, engine: AsyncEngine, *, accepts_provisional: bool, rollups: Rollups, copies: CacheCopies | None = None
    ) -> None:
        self._engine = engine
        self._rollups = rollups
        self._accepts_provisional = accepts_provisional
        self._copies = copies or CacheCopies()
        self._reader = GroupReader(self._fetch)
        # Built once: putting a statement together costs as much as sending it.
        self._select_entries = select(
            CachedImage.image_hash,
            CachedImage.category,
            CachedImage.confidence,
            CachedImage.description,
            (_is_provisional() if accepts_provisional else literal(0)).label("provisional"),
        ).where(CachedImage.image_hash.in_(bindparam("hashes", expanding=True)))
        if not accepts_provisional:
            self._select_entries = self._select_entries.where(~_is_provisional())

    def peek(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image if memory has it; None says nothing about the database."""
        return self._copies.peek(image_hash)

    async def get(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image, or None.

        Raises:
            ServerBusy: too many look-ups wait.
            AppError: the database failed.
        """
        return self._copies.peek(image_hash) or (await self._reader.find([image_hash])).get(image_hash)

    async def get_many(self, image_hashes: Sequence[str]) -> Mapping[str, CachedResult]:
        """Return the entries that exist, by hash; raises as `get` does."""
        found: dict[str, CachedResult] = {}
        unknown: list[str] = []
        for image_hash in image_hashes:
            entry = self._copies.peek(image_hash)
            if entry is None:
                unknown.append(image_hash)
            else:
                found[image_hash] = entry
        if unknown:
            found.update(await self._reader.find(unknown))
        return found

    async def save(
        self,
        image_hash: str,
        result: ModelResult,
        *,
        model: str,
        together_with: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    ) -> CachedResult:
        """Store a model's answer and return the entry that counts from now on.

        The database settles a race: whoever inserts first wins, and the others get the winner's entry.
        `together_with` is committed in the same transaction, whoever wins.
        """
        values = {
            "category": result.category.value,
            "confidence": Decimal(str(round(result.confidence, CONFIDENCE_DIGITS))),
            "description": result.description,
            "model_used": model[:MODEL_USED_MAX_LENGTH],
            "model_response": result.response,
        }
        entry = CachedResult(result.category, round(result.confidence, CONFIDENCE_DIGITS), result.description)

        async def insert_entry(connection: AsyncConnection) -> None:
            now = utc_now()
            await connection.execute(
                insert(CachedImage).values(
                    image_hash=image_hash, hit_count=1, created_at=now, last_hit_at=now, **values
                )
            )
            await execute(connection, self._rollups.entry_added())
            if together_with is not None:
                await together_with(connection)

        async def replace_provisional(connection: AsyncConnection) -> None:
            if not self._accepts_provisional:
                replaced = await connection.execute(
                    update(CachedImage).where(CachedImage.image_hash == image_hash, _is_provisional()).values(**values)
                )
                if replaced.rowcount:
                    await _record_change(connection, image_hash)
            if together_with is not None:
                await together_with(connection)

        try:
            await write(self._engine, insert_entry)
        except IntegrityError:
            await write(self._engine, replace_provisional)
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

    async def _fetch(self, image_hashes: list[str]) -> Mapping[str, CachedResult]:
        """Return what exists, from Redis or else with one query."""
        found = await self._copies.find(image_hashes)
        if rest := [each for each in image_hashes if each not in found]:
            found.update(await self._select(rest))
        return found

    async def _select(self, image_hashes: Collection[str]) -> dict[str, CachedResult]:
        async def select_entries(connection: AsyncConnection) -> tuple[dict[str, CachedResult], set[str]]:
            rows = (await connection.execute(self._select_entries, {"hashes": list(image_hashes)})).all()
            entries = {
                row.image_hash: CachedResult(Category(row.category), float(row.confidence), row.description)
                for row in rows
            }
            return entries, {row.image_hash for row in rows if row.provisional}

        entries, provisional = await read(self._engine, select_entries)
        self._copies.keep_in_memory({each: entries[each] for each in provisional})
        await self._copies.keep({each: entry for each, entry in entries.items() if each not in provisional})
        return entries


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
