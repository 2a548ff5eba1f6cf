"""The SQL of batches: which tasks wait for one, which batch is due, and what a step changes.

A step belongs to the process that `owner` names, as long as that one is not stalled. Every change is bound to it, so a
process that has lost a batch changes nothing any more.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import utc_now
from app.database.heartbeat import Heartbeat
from app.database.statements import can_skip_locked, execute
from app.database.tables.batches import ModelBatch, ModelBatchItem
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.services.tasks.record import Rank, TaskStatus, database_time

# A batch that is past its deadline is cancelled, which takes the provider some minutes; only then its tasks are due, so
# that what is paid for already is not asked again.
CANCELLING = timedelta(minutes=15)
_SHARED_DIGITS = 12


class BatchStatus(StrEnum):
    """`collecting` is prepared here, `submitting` may be known to the provider, `running` is."""

    COLLECTING = "collecting"
    SUBMITTING = "submitting"
    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"


OPEN = (BatchStatus.COLLECTING, BatchStatus.SUBMITTING, BatchStatus.RUNNING)


class BatchLostError(Exception):
    """The batch belongs to another process by now."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, as its owner found it; `is_late`: its deadline has passed. `steps` counts those of this status."""

    id: str
    provider: str
    model: str
    status: BatchStatus
    provider_batch_id: str | None
    photos: int
    steps: int
    submitting_at: datetime | None
    is_late: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One photo of a batch."""

    id: str
    user_id: int
    image_id: int
    image_hash: str


def item_id(batch_id: str) -> str:
    """Return an id for another photo of a batch (32 hex digits), which begins as the batch's."""
    return batch_id[:_SHARED_DIGITS] + secrets.token_hex(16)[_SHARED_DIGITS:]


def is_item_of(batch_id: str, custom_id: str) -> bool:
    """Say whether an id is that of a photo of a batch, also where the photo was deleted meanwhile."""
    return custom_id.startswith(batch_id[:_SHARED_DIGITS])


def is_waiting(dialect: str) -> ColumnElement[bool]:
    """Return the condition: a task waits for a batch."""
    row = InferenceTask
    return and_(
        row.status == TaskStatus.PENDING.value,
        row.priority == Rank.LOW,
        row.due_at > database_time(dialect),
        # Else it waits for its next attempt.
        row.attempts == 0,
    )


async def count_waiting(connection: AsyncConnection, limit: int) -> tuple[int, datetime | None]:
    """Return how many tasks wait for a batch, at most `limit`, and since when the first does."""
    waiting = select(InferenceTask.created_at).where(is_waiting(connection.dialect.name))
    some = waiting.order_by(InferenceTask.due_at).limit(limit).subquery()
    number, first = (await connection.execute(select(func.count(), func.min(some.c.created_at)))).one()
    return number, first


async def collect(
    connection: AsyncConnection,
    heartbeat: Heartbeat,
    batch_id: str,
    *,
    limit: int,
    provider: str,
    model: str,
    by_account: bool,
) -> Batch | None:
    """Put up to `limit` waiting tasks into a new batch of this process; equal photos are one item.

    Args:
        connection: in a transaction, which may be run again.
        heartbeat: of this process.
        batch_id: the new batch's.
        limit: how many tasks.
        provider: of the model.
        model: which.
        by_account: equal photos of two accounts are two items, since each has its own results.
    """
    if (known := await _select(connection, ModelBatch.id == batch_id)) is not None:
        # Committed by an attempt whose answer was lost.
        return known
    task, image = InferenceTask, LibraryImage
    waiting = select(task.id).where(is_waiting(connection.dialect.name)).order_by(task.due_at).limit(limit)
    ids = (await connection.scalars(waiting.with_for_update(skip_locked=can_skip_locked(connection.dialect)))).all()
    if not ids:
        return None
    found = select(task.id, task.due_at, task.user_id, task.image_id, image.sha256).join(
        image, image.id == task.image_id
    )
    rows = (await connection.execute(found.where(task.id.in_(ids), is_waiting(connection.dialect.name)))).all()
    if not rows:
        return None
    items: dict[tuple[int, str], dict[str, Any]] = {}
    changes: list[dict[str, Any]] = []
    deadline = min(row.due_at for row in rows)
    for row in rows:
        key = row.user_id if by_account else 0, row.sha256
        item = items.setdefault(
            key,
            {
                "id": item_id(batch_id),
                "batch_id": batch_id,
                "user_id": row.user_id,
                "image_id": row.image_id,
                "image_hash": row.sha256,
            },
        )
        changes.append({"task": row.id, "item": item["id"], "due": deadline + CANCELLING})
    now = utc_now()
    # A batch is never seen without a beat of its owner.
    await execute(connection, heartbeat.renewal)
    await connection.execute(
        insert(ModelBatch).values(
            id=batch_id,
            provider=provider,
            model=model,
            status=BatchStatus.COLLECTING.value,
            photos=len(items),
            owner=heartbeat.process_id,
            due_at=database_time(connection.dialect.name),
            deadline_at=deadline,
            created_at=now,
            updated_at=now,
        )
    )
    await connection.execute(insert(ModelBatchItem), list(items.values()))
    into_batch = update(task).where(task.id == bindparam("task"), task.status == TaskStatus.PENDING.value)
    batched = {"batch_item": bindparam("item"), "due_at": bindparam("due"), "priority": Rank.BATCHED}
    await connection.execute(into_batch.values(**batched), changes)
    return await _select(connection, ModelBatch.id == batch_id)


async def claim_due(connection: AsyncConnection, heartbeat: Heartbeat) -> tuple[Batch | None, bool]:
    """Make this process the owner of a batch whose next step is due; say too whether others own some that are.

    A batch in the name of this process is one that it has lost track of: it works on one at a time.
    """
    row = ModelBatch
    is_stalled = heartbeat.is_stalled(row.owner).label("is_stalled")
    due = and_(row.status.in_([status.value for status in OPEN]), row.due_at <= database_time(connection.dialect.name))
    found = (await connection.execute(select(row.id, row.owner, is_stalled).where(due).order_by(row.due_at))).all()
    others = [each for each in found if each.owner not in {None, heartbeat.process_id}]
    free = [each for each in found if each not in others or (each.is_stalled and heartbeat.can_judge)]
    for each in free:
        await execute(connection, heartbeat.renewal)
        is_unchanged = row.owner.is_(None) if each.owner is None else row.owner == each.owner
        taken = update(row).where(row.id == each.id, due, is_unchanged)
        if (await connection.execute(taken.values(owner=heartbeat.process_id, updated_at=utc_now()))).rowcount:
            return await _select(connection, row.id == each.id), bool(others)
    return None, bool(others)


async def select_items(connection: AsyncConnection, batch_id: str) -> list[Item]:
    """Return the photos of a batch that are still asked for."""
    item = ModelBatchItem
    is_wanted = select(InferenceTask.id).where(
        InferenceTask.batch_item == item.id, InferenceTask.status == TaskStatus.PENDING.value
    )
    query = select(item.id, item.user_id, item.image_id, item.image_hash).where(
        item.batch_id == batch_id, item.outcome.is_(None), is_wanted.exists()
    )
    return [Item(*row) for row in await connection.execute(query.order_by(item.id))]


async def select_all_items(connection: AsyncConnection, batch_id: str) -> dict[str, Item]:
    """Return the photos of a batch by their ids."""
    item = ModelBatchItem
    query = select(item.id, item.user_id, item.image_id, item.image_hash).where(item.batch_id == batch_id)
    return {row.id: Item(*row) for row in await connection.execute(query)}


async def drop_items(connection: AsyncConnection, item_ids: Collection[str]) -> None:
    """Have the model asked directly about photos that their batch does not have to look at."""
    await ask_directly(connection, item_ids)
    for some in _chunks(list(item_ids)):
        await connection.execute(delete(ModelBatchItem).where(ModelBatchItem.id.in_(some)))


async def keep_outcomes(connection: AsyncConnection, outcomes: Sequence[dict[str, Any]]) -> None:
    """Note what came of photos: each with `item`, its id, and the columns that change."""
    if outcomes:
        changed: dict[str, Any] = {
            name: bindparam(f"new_{name}") for name in ("outcome", "error_code", "answer", "cost_micros")
        }
        values = [{"item": each["item"], **{f"new_{name}": each[name] for name in changed}} for each in outcomes]
        await connection.execute(
            update(ModelBatchItem).where(ModelBatchItem.id == bindparam("item")).values(**changed), values
        )


async def ask_directly(connection: AsyncConnection, item_ids: Collection[str]) -> None:
    """Make the tasks of some photos due: what their batch has for them is used, and the model is asked for the rest."""
    for some in _chunks(list(item_ids)):
        pending = InferenceTask.batch_item.in_(some), InferenceTask.status == TaskStatus.PENDING.value
        now = database_time(connection.dialect.name)
        await connection.execute(update(InferenceTask).where(*pending).values(due_at=now, updated_at=utc_now()))


async def wait_again(connection: AsyncConnection, item_ids: Collection[str]) -> None:
    """Take photos out of their batch, so that their tasks wait for another one."""
    for some in _chunks(list(item_ids)):
        pending = InferenceTask.batch_item.in_(some), InferenceTask.status == TaskStatus.PENDING.value
        back = {"batch_item": None, "priority": Rank.LOW, "updated_at": utc_now()}
        await connection.execute(update(InferenceTask).where(*pending).values(**back))
        await connection.execute(delete(ModelBatchItem).where(ModelBatchItem.id.in_(some)))


async def change(
    connection: AsyncConnection,
    batch: Batch,
    heartbeat: Heartbeat,
    *,
    status: BatchStatus | None = None,
    due_in_seconds: int | None = None,
    **values: object,
) -> None:
    """Note the state that a step has led to; with `due_in_seconds` this process gives the batch back until then.

    Without `status` that stays, whatever it is.

    Raises:
        BatchLostError: it belongs to another process.
    """
    row = ModelBatch
    changed: dict[str, Any] = {"updated_at": utc_now(), **values}
    changed["steps"] = row.steps + 1 if status in {None, batch.status} else 0
    if status is not None:
        changed["status"] = status.value
    if due_in_seconds is not None:
        changed |= {"owner": None, "due_at": database_time(connection.dialect.name, due_in_seconds)}
    is_ours = row.id == batch.id, row.owner == heartbeat.process_id, row.status.in_([each.value for each in OPEN])
    if not (await connection.execute(update(row).where(*is_ours).values(**changed))).rowcount:
        raise BatchLostError


async def abandon(connection: AsyncConnection, provider: str, *, has_batches: bool) -> int:
    """End the batches of other providers, which can be asked no longer, and return how many; the model is asked itself.

    Where `provider` has no batches, no task waits for one either.
    """
    row = ModelBatch
    others = row.provider != provider, row.status.in_([status.value for status in OPEN])
    ids = (await connection.scalars(select(row.id).where(*others))).all()
    for batch_id in ids:
        await ask_directly(connection, await select_all_items(connection, batch_id))
        ended = {"status": BatchStatus.FAILED.value, "error_code": "provider_changed", "reserved_micros": 0}
        await connection.execute(update(row).where(row.id == batch_id, *others).values(**ended, updated_at=utc_now()))
    if not has_batches:
        now = database_time(connection.dialect.name)
        await connection.execute(update(InferenceTask).where(is_waiting(connection.dialect.name)).values(due_at=now))
    return len(ids)


async def known_ids(connection: AsyncConnection, provider: str) -> list[str]:
    """Return the provider's ids of all batches that are known here."""
    ids = select(ModelBatch.provider_batch_id).where(
        ModelBatch.provider == provider, ModelBatch.provider_batch_id.is_not(None)
    )
    return [str(each) for each in (await connection.scalars(ids)).all()]


async def delete_old(connection: AsyncConnection, rows: int, kept: timedelta) -> int:
    """Delete batches that ended so long ago, with what they say of photos; return how many."""
    row = ModelBatch
    old = select(row.id).where(
        row.updated_at < utc_now() - kept,
        row.status.in_([BatchStatus.ENDED.value, BatchStatus.FAILED.value]),
    )
    if ids := (await connection.scalars(old.limit(rows))).all():
        await connection.execute(delete(row).where(row.id.in_(ids)))
    return len(ids)


async def _select(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> Batch | None:
    row = ModelBatch
    is_late = (row.deadline_at <= database_time(connection.dialect.name)).label("is_late")
    columns = row.id, row.provider, row.model, row.status, row.provider_batch_id, row.photos, row.steps
    found = (await connection.execute(select(*columns, row.submitting_at, is_late).where(*conditions))).one_or_none()
    if found is None:
        return None
    return Batch(**{**found._asdict(), "status": BatchStatus(found.status), "is_late": bool(found.is_late)})


def _chunks(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + 500] for start in range(0, len(ids), 500)]
