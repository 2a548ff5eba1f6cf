"""Marks entries to be asked again. No picture is kept, so a model looks at one when it is uploaded the next time.

A marked entry is provisional, like those of the local model beside another one: look-ups miss it, and the first answer
replaces it and keeps its `hit_count`. The mark is the beginning of its model's name, so it can be taken back.
"""

import asyncio
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import (
    CASCADE_MODEL_PREFIX,
    LOCAL_MODEL_PREFIX,
    LOCAL_ONLY_MODEL_PREFIX,
    MARKED_MODEL_PREFIX,
)
from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.tables.classification import CacheDescription, CachedImage
from app.database.transactions import read, write
from app.language.accept import Language
from app.language.descriptions import HAN, guessed_language
from app.services.cache.entry import PEOPLE
from app.services.cache.rows import record_change

# A range of ids is counted within the time of a transaction, whatever the descriptions are.
COUNT_RANGE = 20_000
MARK_RANGE = 500
# Each process reads the changes of the last minute every second (app/services/cache/invalidation.py): 30 000 of them
# take it a few hundredths, and MAX_CHANGES is not reached.
MARKED_PER_SECOND = 500
# The local model would say the same again, before the service's own is asked.
_LOOKED_FIRST = (CASCADE_MODEL_PREFIX, LOCAL_ONLY_MODEL_PREFIX)
# What the newest entries say is what the service has been asked with of late.
NEWEST = 20

_entry = CachedImage


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are to be asked again; what is None restricts nothing.

    `model` is the one that will be asked, `below` a confidence, `made_by` the name of a model, `language` that of the
    descriptions from now on. Never are: entries that people have corrected, those that are asked again anyway, and,
    unless `made_by` or `language` say so, those of `model` itself. The local model is not asked in the place of a paid
    one, unless `made_by` names that; what it has answered in the place of one, only if `made_by` names it.
    """

    model: str
    category: Category | None = None
    below: float | None = None
    made_by: str | None = None
    language: Language | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what the rows have to fulfil."""
        is_local = _entry.model_used.startswith(LOCAL_MODEL_PREFIX, autoescape=True)
        found: list[ColumnElement[bool]] = [
            _entry.model_used.not_in(PEOPLE),
            ~_entry.model_used.startswith(MARKED_MODEL_PREFIX, autoescape=True),
        ]
        if not self.model.startswith(LOCAL_MODEL_PREFIX):
            found.append(~is_local)
        elif self.made_by is None:
            found.append(is_local)
        if self.made_by is not None:
            found.append(_entry.model_used == self.made_by)
        elif self.language is None:
            found.append(_entry.model_used != self.model)
        if self.made_by is None:
            found += [~_entry.model_used.startswith(prefix, autoescape=True) for prefix in _LOOKED_FIRST]
        if self.category is not None:
            found.append(_entry.category == self.category.value)
        if self.below is not None:
            found.append(_entry.confidence < self.below)
        if self.language is not None:
            has_han = _entry.description.regexp_match(HAN)
            # Of entries that are older than the column, the characters tell.
            guessed = has_han if self.language is Language.ENGLISH else ~has_han
            translated = select(CacheDescription.entry_id).where(
                CacheDescription.entry_id == _entry.id,
                CacheDescription.language == self.language.value,
                CacheDescription.description.is_not(None),
            )
            found += [
                _entry.description.is_not(None),
                ~translated.exists(),
                or_(_entry.language == self.language.other.value, and_(_entry.language.is_(None), guessed)),
            ]
        return found


async def count(engine: AsyncEngine, selection: Selection) -> Counter[tuple[str, str]]:
    """Return how many entries are selected, by their model and category.

    Raises:
        AppError: the database failed.
    """
    found: Counter[tuple[str, str]] = Counter()

    async def count_range(connection: AsyncConnection, first: int) -> Counter[tuple[str, str]]:
        query = (
            select(_entry.model_used, _entry.category, func.count())
            .where(*_range(first, COUNT_RANGE), *selection.conditions())
            .group_by(_entry.model_used, _entry.category)
        )
        return Counter({(model, category): n for model, category, n in await connection.execute(query)})

    for first in range(*await _ids(engine), COUNT_RANGE):
        found += await read(engine, lambda connection, first=first: count_range(connection, first))  # type: ignore[misc]
    return found


async def mark(engine: AsyncEngine, selection: Selection, on_marked: Callable[[int], object]) -> int:
    """Mark the selected entries, some hundred a second, and return how many; `on_marked` is told of each part.

    It may be stopped at any time and run again: what is marked is not selected any more.

    Raises:
        AppError: the database failed.
    """
    name = func.substr(literal(MARKED_MODEL_PREFIX) + _entry.model_used, 1, MODEL_NAME_MAX_LENGTH)
    return await _rename(engine, selection.conditions(), name, on_marked)


async def unmark(engine: AsyncEngine, on_unmarked: Callable[[int], object]) -> int:
    """Take back all marks, so that the entries answer again; as `mark`."""
    is_marked = _entry.model_used.startswith(MARKED_MODEL_PREFIX, autoescape=True)
    return await _rename(engine, [is_marked], func.substr(_entry.model_used, len(MARKED_MODEL_PREFIX) + 1), on_unmarked)


async def average_cost_micros(engine: AsyncEngine, model: str) -> float | None:
    """Return what the newest answers of a model have cost on average, in millionths of CURRENCY; None without any."""

    async def find(connection: AsyncConnection) -> list[int]:
        query = select(_entry.cost_micros).where(_entry.model_used == model).order_by(_entry.id.desc()).limit(100)
        return list((await connection.scalars(query)).all())

    costs = await read(engine, find)
    return sum(costs) / len(costs) if costs else None


async def what_has_changed(engine: AsyncEngine, model: str, language: Language | None) -> str | None:
    """Return the command that has entries asked again, where none of the newest is of this model or in this language.

    Without a language descriptions are asked for in that of each request.

    Raises:
        AppError: the database failed.
    """

    async def find(connection: AsyncConnection) -> list[Any]:
        newest = select(_entry.model_used, _entry.description, _entry.language).order_by(_entry.id.desc()).limit(NEWEST)
        return list((await connection.execute(newest)).all())

    is_local = model.startswith(LOCAL_MODEL_PREFIX)
    rows = [
        (made_by, None if description is None else spoken or guessed_language(description))
        for made_by, description, spoken in await read(engine, find)
        if made_by not in PEOPLE
        and not made_by.startswith((MARKED_MODEL_PREFIX, *_LOOKED_FIRST))
        and made_by.startswith(LOCAL_MODEL_PREFIX) == is_local
    ]
    if not rows:
        return None
    if all(made_by != model for made_by, _ in rows):
        return f"image-classifier reclassify --model {shlex.quote(model)}"
    described = [spoken for _, spoken in rows if spoken is not None]
    if language is not None and described and language not in described:
        return f"image-classifier reclassify --language {language.value}"
    return None


async def _rename(
    engine: AsyncEngine,
    conditions: list[ColumnElement[bool]],
    name: ColumnElement[str],
    on_renamed: Callable[[int], object],
) -> int:
    async def rename_range(connection: AsyncConnection, first: int) -> int:
        query = select(_entry.id, _entry.image_hash).where(*_range(first, MARK_RANGE), *conditions).with_for_update()
        rows = (await connection.execute(query)).all()
        if rows:
            await connection.execute(
                update(_entry)
                .where(_entry.id.in_([row.id for row in rows]))
                # MySQL would set the time of the last hit to now.
                .values(model_used=name, last_hit_at=_entry.last_hit_at)
            )
            await record_change(connection, *(row.image_hash for row in rows), by_hand=False)
        return len(rows)

    total = 0
    for first in range(*await _ids(engine), MARK_RANGE):
        renamed = await write(engine, lambda connection, first=first: rename_range(connection, first))  # type: ignore[misc]
        if renamed:
            total += renamed
            on_renamed(renamed)
            await asyncio.sleep(renamed / MARKED_PER_SECOND)
    return total


async def _ids(engine: AsyncEngine) -> tuple[int, int]:
    """Return the first id, and the one after the last."""

    async def find(connection: AsyncConnection) -> tuple[int, int]:
        first, last = (await connection.execute(select(func.min(_entry.id), func.max(_entry.id)))).one()
        return (first or 0, (last or -1) + 1)

    return await read(engine, find)


def _range(first: int, length: int) -> list[ColumnElement[bool]]:
    return [_entry.id >= first, _entry.id < first + length]
