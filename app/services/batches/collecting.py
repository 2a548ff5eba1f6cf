"""The SQL that makes a batch of tasks that wait for one."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import utc_now
from app.database.heartbeat import Heartbeat
from app.database.statements import can_skip_locked, execute
from app.database.tables.batches import ModelBatch, ModelBatchItem
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.services.batches.rows import (
    CANCELLING,
    ROWS_OF_A_STATEMENT,
    Batch,
    BatchStatus,
    chunks,
    is_waiting,
    item_id,
    select_batch,
)
from app.services.tasks.record import Rank, TaskStatus, database_time


async def count_waiting(connection: AsyncConnection, names: Collection[str], limit: int) -> tuple[int, datetime | None]:
    """Return how many tasks wait for a batch of a model with these names, at most `limit`, and since when the first."""
    conditions = is_waiting(connection.dialect.name), InferenceTask.model_name.in_(names)
    waiting = select(InferenceTask.created_at).where(*conditions)
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
    names: Collection[str],
    by_account: bool,
) -> Batch | None:
    """Put up to `limit` waiting tasks into a new batch of this process.

    Equal photos are one item, if they are to be described in one language.

    Args:
        connection: in a transaction, which may be run again.
        heartbeat: of this process.
        batch_id: the new batch's.
        limit: how many tasks.
        provider: of the model.
        model: which.
        names: by which tasks may ask for it.
        by_account: equal photos of two accounts are two items, since each has its own results.
    """
    if (known := await select_batch(connection, batch_id)) is not None:
        # Committed by an attempt whose answer was lost.
        return known
    task, image = InferenceTask, LibraryImage
    conditions = is_waiting(connection.dialect.name), task.model_name.in_(names)
    waiting = select(task.id).where(*conditions).order_by(task.due_at).limit(limit)
    ids = (await connection.scalars(waiting.with_for_update(skip_locked=can_skip_locked(connection.dialect)))).all()
    if not ids:
        return None
    found = select(task.id, task.due_at, task.user_id, task.image_id, task.language, image.sha256).join(
        image, image.id == task.image_id
    )
    rows = (await connection.execute(found.where(task.id.in_(ids), is_waiting(connection.dialect.name)))).all()
    if not rows:
        return None
    items: dict[tuple[int, str, str | None], dict[str, Any]] = {}
    item_of: dict[str, str] = {}
    deadline = min(row.due_at for row in rows)
    for row in rows:
        key = row.user_id if by_account else 0, row.sha256, row.language
        item = items.setdefault(
            key,
            {
                "id": item_id(batch_id),
                "batch_id": batch_id,
                "user_id": row.user_id,
                "image_id": row.image_id,
                "image_hash": row.sha256,
                "language": row.language,
            },
        )
        item_of[row.id] = item["id"]
    now = utc_now()
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
    for some in chunks(list(item_of), ROWS_OF_A_STATEMENT):
        into_batch = {
            "batch_item": case({each: item_of[each] for each in some}, value=task.id),
            "due_at": deadline + CANCELLING,
            "priority": Rank.BATCHED,
        }
        is_pending = task.id.in_(some), task.status == TaskStatus.PENDING.value
        await connection.execute(update(task).where(*is_pending).values(**into_batch))
    batch = await select_batch(connection, batch_id)
    # A batch is never seen without a beat of its owner. Last: the row is locked until the commit, and the process' next
    # beat waits for that.
    await execute(connection, heartbeat.renewal)
    return batch
