"""The SQL of batches: which tasks wait for one, which batch is due, and what a step changes.

A step belongs to the process that `owner` names, as long as that one is not stalled. Every change is bound to it, so a
process that has lost a batch changes nothing any more.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, case, delete, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import utc_now
from app.database.heartbeat import Heartbeat
from app.database.statements import execute
from app.database.tables.batches import ModelBatch, ModelBatchItem
from app.database.tables.inference import InferenceTask
from app.database.tables.library import LibraryImage
from app.language.accept import Language
from app.services.tasks.record import Rank, TaskStatus, database_time

# A batch that is past its deadline is cancelled, which takes the provider some minutes; only then its tasks are due, so
# that what is paid for already is not asked again.
CANCELLING = timedelta(minutes=15)
_SHARED_DIGITS = 12
# Of a statement with a CASE for each row: a batch is a few of them, and not one for each row.
ROWS_OF_A_STATEMENT = 125

_ITEM_COLUMNS = (
    ModelBatchItem.id,
    ModelBatchItem.user_id,
    ModelBatchItem.image_id,
    ModelBatchItem.image_hash,
    ModelBatchItem.language,
)

T = TypeVar("T")


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
    """One batch, as its owner found it. `steps` counts those before it runs, and after that those while it does.

    `is_late`: its deadline has passed; `is_overdue`: so has the time in which it should have been cancelled.
    """

    id: str
    provider: str
    model: str
    status: BatchStatus
    provider_batch_id: str | None
    photos: int
    steps: int
    submitting_at: datetime | None
    is_late: bool
    is_overdue: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One photo of a batch, and the language in which it is to be described; tasks of before named none."""

    id: str
    user_id: int
    image_id: int
    image_hash: str
    language: Language | None


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
            return await select_batch(connection, each.id), bool(others)
    return None, bool(others)


async def select_items(connection: AsyncConnection, batch_id: str) -> list[Item]:
    """Return the photos of a batch that are still asked for."""
    item = ModelBatchItem
    is_wanted = select(InferenceTask.id).where(
        InferenceTask.batch_item == item.id, InferenceTask.status == TaskStatus.PENDING.value
    )
    query = select(*_ITEM_COLUMNS).where(item.batch_id == batch_id, item.outcome.is_(None), is_wanted.exists())
    return [_item(*row) for row in await connection.execute(query.order_by(item.id))]


async def select_all_items(connection: AsyncConnection, batch_id: str) -> dict[str, Item]:
    """Return the photos of a batch by their ids."""
    query = select(*_ITEM_COLUMNS).where(ModelBatchItem.batch_id == batch_id)
    return {row.id: _item(*row) for row in await connection.execute(query)}


async def restore_items(connection: AsyncConnection, batch_id: str, item_ids: Collection[str]) -> dict[str, Item]:
    """Make the rows of photos anew that went with one picture, where a task waits for another one of the same photo."""
    task, image = InferenceTask, LibraryImage
    restored: dict[str, Item] = {}
    for some in chunks(list(item_ids)):
        query = select(task.batch_item, task.user_id, task.image_id, image.sha256, task.language)
        waiting = task.batch_item.in_(some), task.status == TaskStatus.PENDING.value
        for row in await connection.execute(query.join(image, image.id == task.image_id).where(*waiting)):
            restored[str(row[0])] = _item(str(row[0]), *row[1:])
    if restored:
        columns = [asdict(each) | {"batch_id": batch_id} for each in restored.values()]
        await connection.execute(insert(ModelBatchItem), columns)
    return restored


async def drop_items(connection: AsyncConnection, item_ids: Collection[str]) -> None:
    """Have the model asked directly about photos that their batch does not have to look at."""
    await ask_directly(connection, item_ids)
    for some in chunks(list(item_ids)):
        await connection.execute(delete(ModelBatchItem).where(ModelBatchItem.id.in_(some)))


async def keep_outcomes(connection: AsyncConnection, outcomes: Sequence[dict[str, Any]]) -> None:
    """Note what came of photos: each with `item`, its id, and the columns that change; a statement for many of them."""
    item = ModelBatchItem
    for some in chunks(outcomes, ROWS_OF_A_STATEMENT):
        changed = {
            column: case({each["item"]: literal(each[column.key], column.type) for each in some}, value=item.id)
            for column in (item.outcome, item.error_code, item.answer, item.cost_micros)
        }
        ids = [each["item"] for each in some]
        await connection.execute(update(item).where(item.id.in_(ids)).values(changed))


async def ask_directly(connection: AsyncConnection, item_ids: Collection[str]) -> None:
    """Make the tasks of some photos due: what their batch has for them is used, and the model is asked for the rest."""
    for some in chunks(list(item_ids)):
        await _make_due(connection, InferenceTask.batch_item.in_(some))


async def ask_all_directly(connection: AsyncConnection, batch_id: str) -> None:
    """Do the same for all photos of a batch, also for those whose row went with another picture of the same photo."""
    # The index knows a range of strings on all databases, which it does not of LIKE: hexadecimal digits come before g.
    first = batch_id[:_SHARED_DIGITS]
    await _make_due(connection, InferenceTask.batch_item.between(first, f"{first}g"))


async def _make_due(connection: AsyncConnection, condition: ColumnElement[bool]) -> None:
    pending = condition, InferenceTask.status == TaskStatus.PENDING.value
    now = database_time(connection.dialect.name)
    # One that waits for its next attempt keeps its pause.
    waits = InferenceTask.attempts == 0
    await connection.execute(update(InferenceTask).where(*pending, waits).values(due_at=now, updated_at=utc_now()))


async def wait_again(connection: AsyncConnection, batch_id: str, item_ids: Collection[str]) -> None:
    """Take photos out of their batch, so that their tasks wait for another one, until the deadline of this one."""
    deadline = select(ModelBatch.deadline_at).where(ModelBatch.id == batch_id).scalar_subquery()
    for some in chunks(list(item_ids)):
        pending = InferenceTask.batch_item.in_(some), InferenceTask.status == TaskStatus.PENDING.value
        back = {"batch_item": None, "priority": Rank.LOW, "due_at": deadline, "updated_at": utc_now()}
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
    # Those of a submission that has to be repeated are counted on: the pauses grow.
    begins_to_run = status is BatchStatus.RUNNING and batch.status is not BatchStatus.RUNNING
    changed["steps"] = 0 if begins_to_run else row.steps + 1
    if status is not None:
        changed["status"] = status.value
    if due_in_seconds is not None:
        changed |= {"owner": None, "due_at": database_time(connection.dialect.name, due_in_seconds)}
    is_ours = row.id == batch.id, row.owner == heartbeat.process_id, row.status.in_([each.value for each in OPEN])
    if not (await connection.execute(update(row).where(*is_ours).values(**changed))).rowcount:
        raise BatchLostError


async def abandon(connection: AsyncConnection, provider: str, names: Collection[str]) -> int:
    """End the batches of other providers, which can be asked no longer, and return how many; the model is asked itself.

    So it is about the photos of tasks that wait for a batch though the model they name has none: it is not in `names`.
    """
    row = ModelBatch
    others = row.provider != provider, row.status.in_([status.value for status in OPEN])
    ids = (await connection.scalars(select(row.id).where(*others))).all()
    for batch_id in ids:
        await ask_all_directly(connection, batch_id)
        ended = {"status": BatchStatus.FAILED.value, "error_code": "provider_changed", "reserved_micros": 0}
        await connection.execute(update(row).where(row.id == batch_id, *others).values(**ended, updated_at=utc_now()))
    waits = is_waiting(connection.dialect.name), InferenceTask.model_name.not_in(names)
    now = database_time(connection.dialect.name)
    await connection.execute(update(InferenceTask).where(*waits).values(due_at=now))
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


async def select_batch(connection: AsyncConnection, batch_id: str) -> Batch | None:
    """Return a batch; None: there is none of this id."""
    row = ModelBatch
    dialect = connection.dialect.name
    is_late = (row.deadline_at <= database_time(dialect)).label("is_late")
    cancelling = -int(CANCELLING.total_seconds())
    is_overdue = (row.deadline_at <= database_time(dialect, cancelling)).label("is_overdue")
    columns = row.id, row.provider, row.model, row.status, row.provider_batch_id, row.photos, row.steps
    query = select(*columns, row.submitting_at, is_late, is_overdue).where(row.id == batch_id)
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return None
    known = {"status": BatchStatus(found.status), "is_late": bool(found.is_late), "is_overdue": bool(found.is_overdue)}
    return Batch(**{**found._asdict(), **known})


def _item(item: str, user_id: int, image_id: int, image_hash: str, language: str | None) -> Item:
    return Item(item, user_id, image_id, image_hash, None if language is None else Language(language))


def chunks(values: Sequence[T], most: int = 500) -> list[Sequence[T]]:
    """Return `values` in parts of at most so many."""
    return [values[start : start + most] for start in range(0, len(values), most)]
