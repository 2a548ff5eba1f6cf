"""What operators see: entries by category, model, confidence and dispute, found by hash, request id or description.

There is no index on confidences, models, words of descriptions and disputes. So entries are looked through from the
newest on, in ranges of ids and for a bounded time; the answer says where it has stopped, and the next request goes on
there.
"""

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import MARKED_MODEL_PREFIX
from app.database.tables.classification import CachedImage
from app.database.tables.feedback import CacheHistory, FeedbackVote
from app.database.tables.near_duplicates import CacheAlias
from app.database.tables.request_log import RequestLog
from app.database.transactions import read
from app.errors import CacheEntryNotFound
from app.services.cache.corrections import CORRECTED_SOURCE
from app.services.cache.entry import PEOPLE
from app.services.feedback.votes import countable, effective

SCAN_ROWS = 20_000
SCAN_SECONDS = 2.0
# A word of this form may be the beginning of a hash; a shorter one is looked for in descriptions.
_HASH_BEGINNING = re.compile("[0-9a-f]{8,64}")
_REQUEST_ID = re.compile(r"req_\d+_[0-9a-f]+")
MAX_CHANGES, MAX_COMMENTS = 50, 50

_entry, _vote = CachedImage, FeedbackVote


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries; what is None restricts nothing. `text` is a hash or its beginning, a request id, or words."""

    category: Category | None = None
    model: str | None = None
    below: float | None = None
    disputed: bool = False
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    """How many voters count for a category; those of votes that were set aside are not among them."""

    category: Category
    voters: int


@dataclass(frozen=True, slots=True)
class ReviewedEntry:
    """An entry of the cache with what is said of it.

    `confidence_source` is where the confidence comes from (`corrected`: it is none of a model); None where the entry
    does not say it. `is_marked`: it is to be asked again. `similar_to`: the photo whose answer it repeats.
    """

    image_hash: str
    category: Category
    confidence: float
    confidence_source: str | None
    description: str | None
    model: str
    is_marked: bool
    similar_to: str | None
    hit_count: int
    created_at: datetime
    last_hit_at: datetime
    opinions: list[Opinion] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, the newest first; `next_before` is where the next page begins, None after the last."""

    entries: list[ReviewedEntry]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class HistoricChange:
    """A change by people: the category and the model before it and after it, None where there was no entry."""

    changed_at: datetime
    action: str
    actor: str
    category_before: str | None
    model_before: str | None
    description_before: str | None
    category_after: str | None
    model_after: str | None
    undone_at: datetime | None


@dataclass(frozen=True, slots=True)
class Comment:
    """What a user has written beside a vote. Who it was is not kept."""

    category: Category
    text: str
    created_at: datetime
    is_dismissed: bool


@dataclass(frozen=True, slots=True)
class EntryDetails:
    """All there is about one photo; `entry` is None where there is none (any more)."""

    image_hash: str
    entry: ReviewedEntry | None
    history: list[HistoricChange]
    comments: list[Comment]


class ReviewedEntries:
    """Reads entries for operators."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(self, filters: Filters, *, before: int | None, limit: int) -> Page:
        """Return at most `limit` entries whose row is older than `before`.

        Raises:
            DatabaseUnavailable, ServerBusy: as every reader.
        """
        conditions, needs_scan = _conditions(filters)
        if not needs_scan:
            ids = await self._ids(conditions, before, limit)
            # What is found without a look through has no more than the limit on a page.
            return Page(await self._entries(ids), ids[-1] if len(ids) == limit else None)
        ids, end = [], before
        if end is None:
            end = (await read(self._engine, lambda connection: connection.scalar(select(func.max(_entry.id)))) or 0) + 1
        deadline = time.monotonic() + SCAN_SECONDS
        while end > 0 and len(ids) < limit:
            start = max(0, end - SCAN_ROWS)
            ids += await self._ids([*conditions, _entry.id >= start], end, limit - len(ids))
            end = ids[-1] if len(ids) == limit else start
            if time.monotonic() > deadline:
                break
        return Page(await self._entries(ids), end if end > 0 else None)

    async def details(self, image_hash: str) -> EntryDetails:
        """Return what there is about one photo.

        Raises:
            CacheEntryNotFound: neither an entry nor a history.
            DatabaseUnavailable, ServerBusy: as every reader.
        """
        ids = await self._ids([_entry.image_hash == image_hash], None, 1)
        entries = await self._entries(ids)
        history = await read(self._engine, lambda connection: _history(connection, image_hash))
        if not entries and not history:
            raise CacheEntryNotFound
        comments = await read(self._engine, lambda connection: _comments(connection, image_hash))
        return EntryDetails(image_hash, entries[0] if entries else None, history, comments)

    async def _ids(self, conditions: Sequence[ColumnElement[bool]], before: int | None, limit: int) -> list[int]:
        query = select(_entry.id).where(*conditions).order_by(_entry.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_entry.id < before)

        async def find(connection: AsyncConnection) -> list[int]:
            return list((await connection.scalars(query)).all())

        return await read(self._engine, find)

    async def _entries(self, ids: Sequence[int]) -> list[ReviewedEntry]:
        if not ids:
            return []
        return await read(self._engine, lambda connection: _select_entries(connection, ids))


def _conditions(filters: Filters) -> tuple[list[ColumnElement[bool]], bool]:
    """Return what the rows have to fulfil, and whether no index finds them."""
    found: list[ColumnElement[bool]] = []
    text = (filters.text or "").strip()
    is_found_by_index = False
    if filters.category is not None:
        found.append(_entry.category == filters.category.value)
    if filters.model is not None:
        found.append(_entry.model_used.in_([filters.model, f"{MARKED_MODEL_PREFIX}{filters.model}"]))
    if filters.below is not None:
        found.append(_entry.confidence < filters.below)
    if filters.disputed:
        found.append(_is_disputed())
    if _REQUEST_ID.fullmatch(text):
        found.append(_entry.image_hash.in_(select(RequestLog.image_hash).where(RequestLog.request_id == text)))
        is_found_by_index = True
    elif _HASH_BEGINNING.fullmatch(text.lower()):
        found.append(_entry.image_hash.startswith(text.lower()))
        is_found_by_index = True
    elif text:
        found.append(_entry.description.contains(text, autoescape=True))
    is_narrow = not (filters.model is not None or filters.below is not None or filters.disputed or text)
    return found, not (is_narrow or is_found_by_index)


def _is_disputed() -> ColumnElement[bool]:
    """Return the condition that a vote that counts says another category than the entry."""
    is_other = _vote.image_hash == _entry.image_hash, _vote.is_dismissed == 0, _vote.category != _entry.category
    return exists().where(*is_other)


async def _select_entries(connection: AsyncConnection, ids: Sequence[int]) -> list[ReviewedEntry]:
    rows = (await connection.execute(select(_entry.__table__).where(_entry.id.in_(ids)))).all()
    original = CachedImage.__table__.alias()
    aliases = select(CacheAlias.entry_id, original.c.image_hash).join(original, original.c.id == CacheAlias.original_id)
    similar = {
        row.entry_id: row.image_hash for row in await connection.execute(aliases.where(CacheAlias.entry_id.in_(ids)))
    }
    query = select(_vote.image_hash, _vote.category, *countable())
    is_theirs = _vote.image_hash.in_([row.image_hash for row in rows]), _vote.is_dismissed == 0
    opinions: defaultdict[str, list[Opinion]] = defaultdict(list)
    for vote in await connection.execute(query.where(*is_theirs).group_by(_vote.image_hash, _vote.category)):
        voters = effective(vote.named, vote.users, vote.networks)
        opinions[vote.image_hash].append(Opinion(Category(vote.category), voters))
    ordered = sorted(rows, key=lambda row: -row.id)
    return [_entry_of(row, similar.get(row.id), opinions[row.image_hash]) for row in ordered]


def _entry_of(row: Any, similar_to: str | None, opinions: list[Opinion]) -> ReviewedEntry:
    model = row.model_used.removeprefix(MARKED_MODEL_PREFIX)
    response = row.model_response if isinstance(row.model_response, dict) else {}
    source = response.get("confidence_source")
    return ReviewedEntry(
        image_hash=row.image_hash,
        category=Category(row.category),
        confidence=float(row.confidence),
        # Entries that were corrected before there was a record of it.
        confidence_source=CORRECTED_SOURCE if model in PEOPLE else source if isinstance(source, str) else None,
        description=row.description,
        model=model,
        is_marked=row.model_used != model,
        similar_to=similar_to,
        hit_count=row.hit_count or 0,
        created_at=row.created_at,
        last_hit_at=row.last_hit_at,
        opinions=sorted(opinions, key=lambda opinion: (-opinion.voters, opinion.category)),
    )


async def _history(connection: AsyncConnection, image_hash: str) -> list[HistoricChange]:
    row = CacheHistory
    query = select(row.__table__).where(row.image_hash == image_hash).order_by(row.id.desc()).limit(MAX_CHANGES)
    changes: list[HistoricChange] = []
    for found in await connection.execute(query):
        before, after = found.entry_before or {}, found.entry_after or {}
        changes.append(
            HistoricChange(
                changed_at=found.changed_at,
                action=found.action,
                actor=found.actor,
                category_before=before.get("category"),
                model_before=before.get("model"),
                description_before=before.get("description"),
                category_after=after.get("category"),
                model_after=after.get("model"),
                undone_at=found.undone_at,
            )
        )
    return changes


async def _comments(connection: AsyncConnection, image_hash: str) -> list[Comment]:
    query = select(_vote.category, _vote.comment, _vote.created_at, _vote.is_dismissed)
    has_text = _vote.image_hash == image_hash, _vote.comment.is_not(None)
    rows = await connection.execute(query.where(*has_text).order_by(_vote.created_at.desc()).limit(MAX_COMMENTS))
    return [Comment(Category(row.category), row.comment, row.created_at, bool(row.is_dismissed)) for row in rows]
