"""The SQL of `image_classification_cache`: look-ups, a new entry, a change, and the note of a change for others.

Entries of the local demo model are provisional: the first answer of another model replaces them. Entries that are
marked to be asked again (app/services/cache/reclassification.py) are so whichever model is configured.
"""

import json
import sys
from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.clients.base import LOCAL_MODEL_PREFIX, MARKED_MODEL_PREFIX
from app.clock import utc_now
from app.database.pipeline import Rows
from app.database.statements import Statement, execute, rows_of_placeholders, timestamp_text
from app.database.tables.classification import CacheChange, CacheDescription, CachedImage
from app.database.tables.columns import UtcDateTime
from app.language.accept import Language
from app.services.cache.entry import CachedResult
from app.services.cache.invalidation import CHANGES_KEPT

# With each change; so the table stays short.
OLD_CHANGES_DELETED = 1000

_BEGINNING = f"SUBSTR(cached.model_used, 1, {len(LOCAL_MODEL_PREFIX)})"
_IS_MARKED = f"{_BEGINNING} = '{MARKED_MODEL_PREFIX}'"
_IS_PROVISIONAL = f"{_BEGINNING} IN ('{LOCAL_MODEL_PREFIX}', '{MARKED_MODEL_PREFIX}')"


def select_entries(image_hashes: Collection[str], *, accepts_provisional: bool, translated: bool) -> Statement:
    """Return the look-up of entries, with their descriptions in further languages if `translated`.

    `entries_of` reads its rows.
    """
    further = ("NULL, NULL", "")
    if translated:
        join = " LEFT JOIN cache_description AS further ON further.entry_id = cached.id"
        further = ("further.language, further.description", join)
    text = (
        "SELECT cached.image_hash, cached.category, cached.confidence, cached.description, cached.model_used,"  # noqa: S608 - placeholders
        f" cached.cost_micros, cached.language, {further[0]} FROM image_classification_cache AS cached{further[1]}"
        f" WHERE cached.image_hash IN {rows_of_placeholders(1, len(image_hashes))}"
    )
    text += f" AND NOT {_IS_MARKED if accepts_provisional else _IS_PROVISIONAL}"
    return Statement(text, list(image_hashes))


def entries_of(rows: Rows) -> tuple[dict[str, CachedResult], dict[str, CachedResult]]:
    """Return the entries that `select_entries` has found, by hash, and apart from them the provisional ones."""
    entries: dict[str, CachedResult] = {}
    provisional: dict[str, CachedResult] = {}
    for image_hash, category, confidence, description, model, cost_micros, language, further, text in rows:
        found = provisional if model.startswith(LOCAL_MODEL_PREFIX) else entries
        translations: dict[Language, str | None] | None = None
        if further is not None:
            # An entry has a row for each of them.
            before = found[image_hash].translations if image_hash in found else None
            translations = {**(before or {}), Language(further): text}
        found[image_hash] = CachedResult(
            category=Category(category),
            confidence=float(confidence),
            description=description,
            # Interned: memory holds thousands of entries of few models.
            model=sys.intern(model),
            cost_micros=cost_micros,
            language=None if language is None else Language(language),
            translations=translations,
        )
    return entries, provisional


def insert_entry(image_hash: str, entry: CachedResult, response: Mapping[str, Any], answered_at: datetime) -> Statement:
    """Return the INSERT of a model's answer, of which `entry` is what counts; its `hit_count` begins at 1."""
    columns = (
        "image_hash, category, confidence, description, model_used, model_response, cost_micros, hit_count, created_at,"
        " last_hit_at, language"
    )
    now = timestamp_text(answered_at)
    values = (
        image_hash,
        entry.category.value,
        entry.confidence,
        entry.description,
        entry.model,
        json.dumps(response),
        entry.cost_micros,
        1,
        now,
        now,
        entry.language,
    )
    return Statement(
        f"INSERT INTO image_classification_cache ({columns}) VALUES {rows_of_placeholders(1, len(values))}",  # noqa: S608 - placeholders
        values,
    )


async def replace_provisional(
    connection: AsyncConnection,
    image_hash: str,
    entry: CachedResult,
    response: Mapping[str, Any],
    *,
    accepts_provisional: bool,
) -> bool:
    """Replace the entry of one image by a new answer, if it is provisional; return whether it was.

    A marked entry is not replaced by the local model that answers in the place of another one.
    """
    prefixes = [] if accepts_provisional else [LOCAL_MODEL_PREFIX]
    if accepts_provisional or not entry.model.startswith(LOCAL_MODEL_PREFIX):
        prefixes.append(MARKED_MODEL_PREFIX)
    replaced = await connection.execute(
        update(CachedImage)
        .where(
            CachedImage.image_hash == image_hash,
            or_(*(CachedImage.model_used.startswith(prefix, autoescape=True) for prefix in prefixes)),
        )
        .values(
            category=entry.category.value,
            confidence=Decimal(str(entry.confidence)),
            description=entry.description,
            model_used=entry.model,
            model_response=response,
            cost_micros=entry.cost_micros,
            language=entry.language,
        )
    )
    if replaced.rowcount:
        await forget_translations(connection, CachedImage.image_hash == image_hash)
        for statement in insert_translations(image_hash, entry):
            await execute(connection, statement)
        await record_change(connection, image_hash, by_hand=False)
    return bool(replaced.rowcount)


def insert_translations(image_hash: str, entry: CachedResult) -> list[Statement]:
    """Return what keeps the further descriptions that came with an answer, and have no cost of their own."""
    return [
        Statement(
            "INSERT INTO cache_description (entry_id, language, description, model_used, cost_micros, created_at)"
            " SELECT id, %s, %s, %s, %s, %s FROM image_classification_cache WHERE image_hash = %s",
            (language.value, description, entry.model, 0, timestamp_text(utc_now()), image_hash),
        )
        for language, description in (entry.translations or {}).items()
    ]


async def forget_translations(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> None:
    """Delete the further descriptions of the entries that fulfil all conditions: they say something else now."""
    entries = select(CachedImage.id).where(*conditions)
    await connection.execute(delete(CacheDescription).where(CacheDescription.entry_id.in_(entries)))


async def record_change(connection: AsyncConnection, *image_hashes: str, by_hand: bool) -> None:
    """Tell every process, and delete what all have known for long.

    After a change `by_hand`, first answers from before are not given again (app/services/idempotency).
    """
    now_there = func.current_timestamp(type_=UtcDateTime())
    rows = [{"image_hash": each, "changed_at": now_there, "by_hand": int(by_hand)} for each in image_hashes]
    await connection.execute(insert(CacheChange).values(rows))
    now = (await connection.execute(select(func.current_timestamp(type_=UtcDateTime())))).scalar_one()
    old = select(CacheChange.id).where(CacheChange.changed_at < now - CHANGES_KEPT).limit(OLD_CHANGES_DELETED)
    if ids := (await connection.scalars(old)).all():
        await connection.execute(delete(CacheChange).where(CacheChange.id.in_(ids)))
