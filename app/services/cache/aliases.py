"""Aliases: entries that repeat the answer of a similar photo's entry (app/services/near_duplicates), and follow it.

An alias is an entry like any other, so that its photo is a plain hit from then on. It never answers for a third photo:
small distances would add up. All of it happens in the transaction that changes the original, which locks that row
first; an alias that is being made locks it too, and is therefore either seen by the change or made after it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.clients.base import LOCAL_MODEL_PREFIX, MARKED_MODEL_PREFIX
from app.clock import utc_now
from app.database.tables.classification import CacheChange, CacheDescription, CachedImage
from app.database.tables.columns import UtcDateTime
from app.database.tables.near_duplicates import CacheAlias, PerceptualHash
from app.language.accept import Language
from app.services.cache.entry import CachedResult
from app.services.cache.rows import forget_translations, record_change

# Up to here two pictures are the same, and a description of one is true of the other.
MAX_DISTANCE_OF_SAME = 4
# A model that is less sure may be wrong about the first photo; the next one is a chance to know better.
MIN_CONFIDENCE = 0.6
# Two people's documents of one kind differ in a few small places.
NEVER_REPEATED = Category.IDCARD


def may_be_repeated(*, accepts_provisional: bool) -> tuple[str, list[object]]:
    """Return a condition on a row of the cache: its answer may be given for a similar photo; and its parameters.

    Entries of the local model count only where they do for the photo itself, and none that is to be asked for again.
    """
    condition = "category <> %s AND confidence >= %s"
    parameters: list[object] = [NEVER_REPEATED.value, MIN_CONFIDENCE]
    for prefix in _provisional_prefixes(accepts_provisional=accepts_provisional):
        condition += " AND SUBSTR(model_used, 1, %s) <> %s"
        parameters += [len(prefix), prefix]
    return condition, parameters


def _provisional_prefixes(*, accepts_provisional: bool) -> tuple[str, ...]:
    return (MARKED_MODEL_PREFIX,) if accepts_provisional else (MARKED_MODEL_PREFIX, LOCAL_MODEL_PREFIX)


async def lock_original(
    connection: AsyncConnection, entry_id: int, distance: int, *, accepts_provisional: bool
) -> CachedResult | None:
    """Return what an entry says for a photo at this distance; None where it is gone, or may not be repeated.

    No other transaction changes or removes it before the end of this one.
    """
    row, further = CachedImage, CacheDescription
    query = (
        select(row.category, row.confidence, row.description, row.model_used, row.cost_micros, row.language)
        .where(row.id == entry_id, row.category != NEVER_REPEATED.value, row.confidence >= MIN_CONFIDENCE)
        .with_for_update(read=True)
    )
    found = (await connection.execute(query)).one_or_none()
    prefixes = _provisional_prefixes(accepts_provisional=accepts_provisional)
    if found is None or found.model_used.startswith(prefixes):
        return None
    entry = CachedResult(
        category=Category(found.category),
        confidence=float(found.confidence),
        description=None,
        model=found.model_used,
        cost_micros=found.cost_micros,
    )
    if distance > MAX_DISTANCE_OF_SAME:
        return entry
    texts = await connection.execute(select(further.language, further.description).where(further.entry_id == entry_id))
    return replace(
        entry,
        description=found.description,
        language=None if found.language is None else Language(found.language),
        translations={Language(language): text for language, text in texts} or None,
    )


async def insert_alias(connection: AsyncConnection, image_hash: str, original_id: int, distance: int) -> None:
    """Make the entry of a photo an alias of another one."""
    query = select(CachedImage.id).where(CachedImage.image_hash == image_hash)
    entry_id = (await connection.execute(query)).scalar_one()
    await detach(connection, entry_id)
    # What is no original answers for no other photo.
    await forget_picture(connection, entry_id)
    await connection.execute(insert(CacheAlias).values(entry_id=entry_id, original_id=original_id, distance=distance))


async def family_of(connection: AsyncConnection, entry_id: int) -> int:
    """Return the entry that an alias repeats, locked; the entry itself where it is none."""
    query = select(CacheAlias.original_id).where(CacheAlias.entry_id == entry_id)
    original_id: int | None = await connection.scalar(query)
    if original_id is None:
        return entry_id
    await connection.execute(select(CachedImage.id).where(CachedImage.id == original_id).with_for_update())
    return original_id


async def detach(connection: AsyncConnection, entry_id: int) -> None:
    """Make an alias an entry of its own, if it is one."""
    await connection.execute(delete(CacheAlias).where(CacheAlias.entry_id == entry_id))


async def detach_photo(connection: AsyncConnection, image_hash: str) -> None:
    """The same for the entry of a photo: a model has answered for it."""
    entry = select(CachedImage.id).where(CachedImage.image_hash == image_hash)
    await connection.execute(delete(CacheAlias).where(CacheAlias.entry_id.in_(entry)))


async def correct_aliases(connection: AsyncConnection, original_id: int, values: dict[str, Any]) -> list[str]:
    """Give the aliases of an entry what it has got, and tell every process; return the hashes of their photos.

    Args:
        connection: in a transaction that has locked the original.
        original_id: its row.
        values: columns of the original; a description is taken along only where the picture is the same.
    """
    hashes = await hashes_of_aliases(connection, original_id)
    if not hashes:
        return hashes
    aliases = select(CacheAlias.entry_id).where(CacheAlias.original_id == original_id)
    await forget_translations(connection, CachedImage.id.in_(aliases))
    for is_same, description in (
        (CacheAlias.distance <= MAX_DISTANCE_OF_SAME, values["description"]),
        (CacheAlias.distance > MAX_DISTANCE_OF_SAME, None),
    ):
        ids = select(CacheAlias.entry_id).where(CacheAlias.original_id == original_id, is_same)
        await connection.execute(
            update(CachedImage)
            .where(CachedImage.id.in_(ids))
            # MySQL would set it to now.
            .values({**values, "description": description, "last_hit_at": CachedImage.last_hit_at})
        )
    await _record_changes(connection, CacheAlias.original_id == original_id)
    return hashes


async def insert_description(
    connection: AsyncConnection,
    image_hash: str,
    entry: CachedResult,
    language: Language,
    description: str | None,
    *,
    model: str,
    cost_micros: int,
) -> list[str]:
    """Keep what an entry says in another language, and tell every process; its aliases say the same.

    Args:
        connection: in a transaction.
        image_hash: of the photo.
        entry: as it was when the description was asked for; nothing is kept if it says something else by now.
        language: of the description.
        description: None: there is none in this language, and it is not asked for again.
        model: has given it.
        cost_micros: what that has cost, in millionths of CURRENCY.

    Returns:
        The hashes whose entries have changed.
    """
    row, alias = CachedImage, CacheAlias
    is_unchanged = row.category == entry.category.value, row.model_used == entry.model
    query = select(row.id, row.image_hash).where(row.image_hash == image_hash, *is_unchanged).with_for_update()
    original = (await connection.execute(query)).one_or_none()
    if original is None:
        return []
    same = select(alias.entry_id).where(alias.original_id == original.id, alias.distance <= MAX_DISTANCE_OF_SAME)
    aliases = (await connection.execute(select(row.id, row.image_hash).where(row.id.in_(same)))).all()
    further = CacheDescription
    ids = [each.id for each in (original, *aliases)]
    there = select(further.entry_id).where(further.entry_id.in_(ids), further.language == language.value)
    # Of a transaction whose COMMIT was not answered, or of a process that was taken for stalled.
    known = set((await connection.scalars(there)).all())
    new = [each for each in (original, *aliases) if each.id not in known]
    rows = [
        {
            "entry_id": each.id,
            "language": language.value,
            "description": description,
            "model_used": model,
            "cost_micros": cost_micros if each is original else 0,
            "created_at": utc_now(),
        }
        for each in new
    ]
    if rows:
        await connection.execute(insert(further), rows)
        await record_change(connection, *(each.image_hash for each in new), by_hand=False)
    return [each.image_hash for each in new]


async def hashes_of_aliases(connection: AsyncConnection, original_id: int) -> list[str]:
    """Return the hashes of the photos that an entry answers for, whose rows are then locked."""
    return await _hashes(connection, CacheAlias.original_id == original_id)


async def remove_aliases(connection: AsyncConnection, original_id: int) -> tuple[list[str], int]:
    """Remove the aliases of an entry, and tell every process; return the hashes of their photos, and their hits."""
    is_alias = CacheAlias.original_id == original_id
    hashes = await _hashes(connection, is_alias)
    if not hashes:
        return hashes, 0
    await _record_changes(connection, is_alias)
    ids = select(CacheAlias.entry_id).where(is_alias)
    hits = await connection.scalar(select(func.sum(CachedImage.hit_count)).where(CachedImage.id.in_(ids)))
    # With them go their rows of `cache_alias`, by the foreign key.
    await connection.execute(delete(CachedImage).where(CachedImage.id.in_(ids)))
    return hashes, int(hits or 0)


async def forget_picture(connection: AsyncConnection, entry_id: int) -> None:
    """Delete the perceptual hash of an entry: it answers for no other photo from now on."""
    await connection.execute(delete(PerceptualHash).where(PerceptualHash.entry_id == entry_id))


async def _hashes(connection: AsyncConnection, condition: ColumnElement[bool]) -> list[str]:
    """Return the hashes of the photos of some aliases, whose rows are then locked."""
    query = _photos(condition).with_only_columns(CachedImage.image_hash).with_for_update()
    hashes: Sequence[str] = (await connection.scalars(query)).all()
    return list(hashes)


async def _record_changes(connection: AsyncConnection, condition: ColumnElement[bool]) -> None:
    now = func.current_timestamp(type_=UtcDateTime())
    changes = _photos(condition).with_only_columns(CachedImage.image_hash, now, literal(1))
    columns = ["image_hash", "changed_at", "by_hand"]
    await connection.execute(insert(CacheChange).from_select(columns, changes))


def _photos(condition: ColumnElement[bool]) -> Select[Any]:
    return select(CachedImage).join(CacheAlias, CacheAlias.entry_id == CachedImage.id).where(condition)
