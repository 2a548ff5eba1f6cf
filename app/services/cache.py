"""The shared cache: SHA-256 of a photo -> its classification. An entry never changes once it is valid for everybody.

Entries of the local demo model are the exception: they count only while that model is the configured one, and the
first answer of another model replaces them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import ColumnElement, Row, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import LOCAL_MODEL_PREFIX, ModelResult
from app.clock import utc_now
from app.database.statements import execute
from app.database.tables import CachedImage
from app.database.transactions import read, write
from app.services.rollups import Rollups

CONFIDENCE_DIGITS = 4
MODEL_USED_MAX_LENGTH = 50


@dataclass(frozen=True, slots=True)
class CachedResult:
    """A classification as it is kept: `confidence` is 0..1 with four decimals."""

    category: Category
    confidence: float
    description: str | None


class CacheService:
    """Reads and fills `image_classification_cache`; hashes are 64 lower-case hex digits.

    `accepts_provisional` says that entries of the local model count, because it is the configured one.
    """

    def __init__(self, engine: AsyncEngine, *, accepts_provisional: bool, rollups: Rollups) -> None:
        self._engine = engine
        self._rollups = rollups
        self._accepts_provisional = accepts_provisional
        # Built once: putting a statement together costs as much as sending it.
        self._select_entries = select(
            CachedImage.image_hash, CachedImage.category, CachedImage.confidence, CachedImage.description
        ).where(CachedImage.image_hash.in_(bindparam("hashes", expanding=True)))
        if not accepts_provisional:
            self._select_entries = self._select_entries.where(~_is_provisional())

    async def get(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image, or None."""
        return (await self.get_many([image_hash])).get(image_hash)

    async def get_many(self, image_hashes: Sequence[str]) -> Mapping[str, CachedResult]:
        """Return the entries that exist, by hash, with one query."""
        hashes = list(dict.fromkeys(image_hashes))

        async def select_entries(connection: AsyncConnection) -> dict[str, CachedResult]:
            rows = await connection.execute(self._select_entries, {"hashes": hashes})
            return {row.image_hash: _result(row) for row in rows}

        return await read(self._engine, select_entries)

    async def save(self, image_hash: str, result: ModelResult, *, model: str) -> CachedResult:
        """Store a model's answer and return the entry that counts from now on.

        The database settles a race: whoever inserts first wins, and the others get the winner's entry.
        """
        values = {
            "category": result.category.value,
            "confidence": Decimal(str(round(result.confidence, CONFIDENCE_DIGITS))),
            "description": result.description,
            "model_used": model[:MODEL_USED_MAX_LENGTH],
            "model_response": result.response,
        }

        async def insert_entry(connection: AsyncConnection) -> None:
            now = utc_now()
            await connection.execute(
                insert(CachedImage).values(
                    image_hash=image_hash, hit_count=1, created_at=now, last_hit_at=now, **values
                )
            )
            await execute(connection, self._rollups.entry_added())

        async def replace_provisional(connection: AsyncConnection) -> None:
            await connection.execute(
                update(CachedImage).where(CachedImage.image_hash == image_hash, _is_provisional()).values(**values)
            )

        try:
            await write(self._engine, insert_entry)
        except IntegrityError:
            if not self._accepts_provisional:
                await write(self._engine, replace_provisional)
            winner = await self.get(image_hash)
            if winner is not None:
                return winner
        return CachedResult(result.category, round(result.confidence, CONFIDENCE_DIGITS), result.description)


def _is_provisional() -> ColumnElement[bool]:
    return CachedImage.model_used.startswith(LOCAL_MODEL_PREFIX, autoescape=True)


def _result(row: Row[str, str, Decimal, str | None]) -> CachedResult:
    return CachedResult(Category(row.category), float(row.confidence), row.description)
