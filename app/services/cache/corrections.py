"""What people do to an entry, each with its row in the history: correct, remove, have it asked again, and undo that.

All of it happens within a transaction of the caller, who lets the process' copies forget the hashes that are returned
(`CacheService.change`). The aliases of an entry (app/services/cache/aliases.py) are changed with it.
"""

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.clients.base import MARKED_MODEL_PREFIX
from app.clock import utc_now
from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.statements import execute
from app.database.tables.classification import CachedImage
from app.database.tables.feedback import CacheHistory, FeedbackVote
from app.errors import CacheEntryNotFound, NothingToUndo
from app.language.accept import Language
from app.services.cache.aliases import (
    NEVER_REPEATED,
    correct_aliases,
    detach,
    family_of,
    forget_picture,
    hashes_of_aliases,
    remove_aliases,
)
from app.services.cache.entry import CachedResult
from app.services.cache.rows import forget_translations, record_change
from app.services.request_log.rollups import Rollups

# In the record of an entry, where a model's answer says where its confidence comes from.
CORRECTED_SOURCE = "corrected"


class Change(StrEnum):
    """What was done; a word of the table `cache_history`."""

    CORRECTED = "corrected"
    REMOVED = "removed"
    MARKED = "marked"
    RESTORED = "restored"


async def locked_entry(connection: AsyncConnection, image_hash: str) -> CachedResult:
    """Return what an entry says; no other transaction changes it before the end of this one.

    Raises:
        CacheEntryNotFound: there is no entry.
    """
    _, found = await _locked(connection, image_hash)
    language = found["language"]
    return CachedResult(
        category=Category(found["category"]),
        confidence=found["confidence"],
        description=found["description"],
        model=found["model"],
        cost_micros=found["cost_micros"],
        language=None if language is None else Language(language),
    )


async def correct_entry(
    connection: AsyncConnection, rollups: Rollups, image_hash: str, entry: CachedResult, *, actor: str
) -> list[str]:
    """Replace an entry by what people say; its `hit_count` stays, and an alias follows its original no longer.

    Returns:
        The hashes whose entries have changed.

    Raises:
        CacheEntryNotFound: there is no entry.
    """
    entry_id, before = await _locked(connection, image_hash)
    after = before | {
        "category": entry.category.value,
        "confidence": entry.confidence,
        "description": entry.description,
        "language": entry.language,
        "model": entry.model,
        "response": {"confidence_source": CORRECTED_SOURCE},
    }
    await _record(connection, image_hash, Change.CORRECTED, actor, before, after)
    return await _put(connection, rollups, entry_id, image_hash, after)


async def remove_entry(
    connection: AsyncConnection, rollups: Rollups, image_hash: str, *, actor: str, can_be_undone: bool
) -> list[str]:
    """Remove an entry, so that the photo is unknown again; with it go its aliases.

    Of an alias the original goes too, which would answer for the photo again. What cannot be undone leaves nothing of
    the entry in the history either, and no comment on the photo, also where the entry itself was removed before.

    Returns:
        The hashes whose entries are gone.

    Raises:
        CacheEntryNotFound: there is no entry; nor, for what cannot be undone, a history or a comment.
    """
    # First, as an undo does it: one that goes on at the same time brings the entry back before this looks, or never.
    forgotten = 0 if can_be_undone else await forget_history(connection, [image_hash])
    try:
        entry_id, before = await _locked(connection, image_hash)
    except CacheEntryNotFound:
        if not forgotten:
            raise
        return []
    original_id = await family_of(connection, entry_id)
    query = select(CachedImage.image_hash).where(CachedImage.id == original_id)
    original: str = (await connection.execute(query)).scalar_one()
    lost = {image_hash: before, original: (await _locked(connection, original))[1]}
    aliases = await _remove_aliases(connection, rollups, original_id)
    await connection.execute(delete(CachedImage).where(CachedImage.id == original_id))
    await record_change(connection, original, by_hand=True)
    await execute(connection, rollups.entries_removed(1, lost[original]["hit_count"]))
    removed = [original, *aliases]
    if can_be_undone:
        for each, was in lost.items():
            await _record(connection, each, Change.REMOVED, actor, was, None)
    else:
        await forget_history(connection, removed)
    return removed


async def mark_entry(connection: AsyncConnection, image_hash: str, *, actor: str) -> list[str]:
    """Have the next upload of a photo ask the model, also where people have corrected the entry; aliases too.

    It is what `reclassify` does (app/services/cache/reclassification.py). A marked entry stays as it is.

    Returns:
        The hashes whose entries are marked.

    Raises:
        CacheEntryNotFound: there is no entry.
    """
    entry_id, before = await _locked(connection, image_hash)
    if before["model"].startswith(MARKED_MODEL_PREFIX):
        return []
    name = f"{MARKED_MODEL_PREFIX}{before['model']}"[:MODEL_NAME_MAX_LENGTH]
    await _record(connection, image_hash, Change.MARKED, actor, before, before | {"model": name})
    changed = [image_hash, *await hashes_of_aliases(connection, entry_id)]
    await connection.execute(
        update(CachedImage)
        .where(CachedImage.image_hash.in_(changed))
        # MySQL would set the time of the last hit to now.
        .values(model_used=name, last_hit_at=CachedImage.last_hit_at)
    )
    await record_change(connection, *changed, by_hand=True)
    return changed


async def restore_entry(
    connection: AsyncConnection, rollups: Rollups, image_hash: str, *, actor: str
) -> tuple[list[str], str]:
    """Undo the last change that people have made to an entry; called again, the one before it.

    Aliases that a removal or a correction has taken away do not come back.

    Returns:
        The hashes whose entries have changed, and who had made the change that is undone.

    Raises:
        NothingToUndo: there is no such change, or the entry has become another since, as by a model's answer.
    """
    row = CacheHistory
    query = (
        select(row.id, row.action, row.actor, row.entry_before, row.entry_after)
        .where(row.image_hash == image_hash, row.undone_at.is_(None), row.action != Change.RESTORED.value)
        .order_by(row.id.desc())
        .limit(1)
    )
    last = (await connection.execute(query.with_for_update())).one_or_none()
    if last is None or last.entry_before is None:
        raise NothingToUndo
    try:
        entry_id, current = await _locked(connection, image_hash)
    except CacheEntryNotFound:
        entry_id, current = None, None
    if _answer(current) != _answer(last.entry_after):
        raise _changed_since()
    before: dict[str, Any] = last.entry_before
    await connection.execute(update(row).where(row.id == last.id).values(undone_at=utc_now()))
    if entry_id is None or current is None:
        await _record(connection, image_hash, Change.RESTORED, actor, None, before)
        try:
            await _insert(connection, rollups, image_hash, before)
        except IntegrityError as error:
            # The photo was uploaded since this looked: what is not there cannot be locked.
            raise _changed_since() from error
        return [image_hash], last.actor
    # Its hits were counted on meanwhile.
    after = before | {"hit_count": current["hit_count"]}
    await _record(connection, image_hash, Change.RESTORED, actor, current, after)
    is_alias_still = last.action == Change.MARKED.value
    changed = await _put(connection, rollups, entry_id, image_hash, after, detaches=not is_alias_still)
    return changed, last.actor


def _changed_since() -> NothingToUndo:
    return NothingToUndo("The entry has changed since.")


async def forget_history(connection: AsyncConnection, image_hashes: Collection[str]) -> int:
    """Delete what the history has of entries that are gone, and what users have written; return of how many rows."""
    return await _forget(
        connection, CacheHistory.image_hash.in_(image_hashes), FeedbackVote.image_hash.in_(image_hashes)
    )


async def forget_some_removed(connection: AsyncConnection, rows: int, *, cutoff: datetime) -> int:
    """Delete what the history has of at most so many entries up to their removal, and what users had written by then.

    Entries whose removal was undone, or is younger than `cutoff`, keep theirs, and so does what came after a removal.

    Returns:
        Of how many removals.
    """
    row, vote = CacheHistory, FeedbackVote
    is_due = row.action == Change.REMOVED.value, row.changed_at < cutoff, row.undone_at.is_(None)
    found = (await connection.execute(select(row.id, row.image_hash, row.changed_at).where(*is_due).limit(rows))).all()
    for removal in found:
        await _forget(
            connection,
            and_(row.image_hash == removal.image_hash, row.id <= removal.id),
            and_(vote.image_hash == removal.image_hash, vote.created_at <= removal.changed_at),
        )
    return len(found)


async def _forget(connection: AsyncConnection, of_history: ColumnElement[bool], of_votes: ColumnElement[bool]) -> int:
    deleted = await connection.execute(delete(CacheHistory).where(of_history))
    has_comment = FeedbackVote.comment.is_not(None)
    erased = await connection.execute(update(FeedbackVote).where(of_votes, has_comment).values(comment=None))
    return deleted.rowcount + erased.rowcount


async def _locked(connection: AsyncConnection, image_hash: str) -> tuple[int, dict[str, Any]]:
    """Return the row id and the content of an entry, which no other transaction changes before the end of this one.

    SQLite has no FOR UPDATE: a transaction that writes holds the only write lock from its beginning.

    Raises:
        CacheEntryNotFound: there is no entry.
    """
    row = CachedImage
    query = select(row.__table__).where(row.image_hash == image_hash).with_for_update()
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        raise CacheEntryNotFound
    return found.id, {
        "category": found.category,
        "confidence": float(found.confidence),
        "description": found.description,
        "language": found.language,
        "model": found.model_used,
        "response": found.model_response,
        "cost_micros": found.cost_micros,
        "hit_count": found.hit_count or 0,
        "created_at": found.created_at.isoformat(),
    }


async def _put(
    connection: AsyncConnection,
    rollups: Rollups,
    entry_id: int,
    image_hash: str,
    entry: dict[str, Any],
    *,
    detaches: bool = True,
) -> list[str]:
    """Give a locked entry, and its aliases, another content; return the hashes whose entries have changed."""
    values = _columns(entry)
    await connection.execute(
        update(CachedImage)
        .where(CachedImage.id == entry_id)
        # MySQL would set it to now.
        .values({**values, "last_hit_at": CachedImage.last_hit_at})
    )
    await forget_translations(connection, CachedImage.id == entry_id)
    await record_change(connection, image_hash, by_hand=True)
    if detaches:
        await detach(connection, entry_id)
    if entry["category"] != NEVER_REPEATED.value:
        return [image_hash, *await correct_aliases(connection, entry_id, values)]
    await forget_picture(connection, entry_id)
    return [image_hash, *await _remove_aliases(connection, rollups, entry_id)]


async def _insert(connection: AsyncConnection, rollups: Rollups, image_hash: str, entry: dict[str, Any]) -> None:
    created_at = datetime.fromisoformat(entry["created_at"])
    counted = {"hit_count": entry["hit_count"], "cost_micros": entry["cost_micros"], "created_at": created_at}
    await connection.execute(insert(CachedImage).values(image_hash=image_hash, **_columns(entry), **counted))
    await execute(connection, rollups.entry_restored(entry["hit_count"]))
    await record_change(connection, image_hash, by_hand=True)


def _columns(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "category": entry["category"],
        "confidence": Decimal(str(entry["confidence"])),
        "description": entry["description"],
        # The history may be older than languages.
        "language": entry.get("language"),
        "model_used": entry["model"],
        "model_response": entry["response"],
    }


def _answer(entry: dict[str, Any] | None) -> tuple[Any, ...] | None:
    """Return what a change changes of an entry; None where there is none."""
    if entry is None:
        return None
    return entry["category"], entry["confidence"], entry["description"], entry["model"]


async def _remove_aliases(connection: AsyncConnection, rollups: Rollups, entry_id: int) -> list[str]:
    hashes, hits = await remove_aliases(connection, entry_id)
    if hashes:
        await execute(connection, rollups.entries_removed(len(hashes), hits))
    return hashes


async def _record(
    connection: AsyncConnection,
    image_hash: str,
    change: Change,
    actor: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    row = {"image_hash": image_hash, "changed_at": utc_now(), "action": change.value, "actor": actor}
    await connection.execute(insert(CacheHistory).values(**row, entry_before=before, entry_after=after))
