"""What a task is: one row, and an event for every change of it, written in the same transaction.

`Task.body` is the one form in which a task is told: as the answer of its address, and in every event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, insert, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.statements import seconds_from_now
from app.database.tables.inference import InferenceTask, TaskEvent
from app.language.accept import Language

TASK_EVENT = "task"


class TaskStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Priority(StrEnum):
    """What a client says of a photo: low means that it can wait, for a lower price."""

    NORMAL = "normal"
    LOW = "low"


class Rank(IntEnum):
    """In which order due tasks are run: an album does not stand before a single photo.

    BATCHED is LOW for tasks that are in a batch: those that wait for one are found without reading them.
    """

    SINGLE = 0
    JOB = 1
    LOW = 2
    BATCHED = 3

    @property
    def priority(self) -> Priority:
        """What the client has said."""
        return Priority.LOW if self >= Rank.LOW else Priority.NORMAL


UNFINISHED = (TaskStatus.PENDING, TaskStatus.PROCESSING)
FINISHED = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)
_COLUMNS = (
    InferenceTask.id,
    InferenceTask.user_id,
    InferenceTask.image_id,
    InferenceTask.model_name,
    InferenceTask.status,
    InferenceTask.attempts,
    InferenceTask.claim,
    InferenceTask.error_code,
    InferenceTask.error_message,
    InferenceTask.result_id,
    InferenceTask.created_at,
    InferenceTask.updated_at,
    InferenceTask.priority,
    InferenceTask.batch_item,
    InferenceTask.job_id,
    InferenceTask.language,
)


@dataclass(frozen=True, slots=True)
class Task:
    """One task; `claim` is the mark of the run, or of the cancellation, that has changed it last.

    `batch_item` is the id of its photo in a batch, if it was put into one. `language` is that in which the photo is to
    be described; tasks of before named none.
    """

    id: str
    user_id: int
    image_id: int
    model_name: str
    status: TaskStatus
    attempts: int
    claim: str | None
    error_code: str | None
    error_message: str | None
    result_id: int | None
    created_at: datetime
    updated_at: datetime
    priority: Rank
    batch_item: str | None
    job_id: str | None
    language: Language | None

    @property
    def url(self) -> str:
        """Where its owner asks for it."""
        return f"/images/inference/tasks/{self.id}"

    def body(self) -> dict[str, Any]:
        """The task as JSON for its owner."""
        return {
            "task_id": self.id,
            "status": self.status.value,
            "image_id": self.image_id,
            "model_name": self.model_name,
            "priority": self.priority.priority.value,
            "job_id": self.job_id,
            "attempts": self.attempts,
            "result_id": self.result_id,
            "result_url": None if self.result_id is None else f"/images/inference/{self.result_id}",
            "error": None if self.error_code is None else {"code": self.error_code, "message": self.error_message},
            "created_at": _json_time(self.created_at),
            "updated_at": _json_time(self.updated_at),
        }


async def select_tasks(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> list[Task]:
    """Return the tasks that fulfil all conditions, in no order."""
    return [task_of(row) for row in await connection.execute(task_query().where(*conditions))]


def task_query() -> Any:
    """Return the query whose rows `task_of` takes."""
    return select(*_COLUMNS)


def task_of(row: Row[Any]) -> Task:
    """Return the task of a row of `task_query`."""
    known = {
        "status": TaskStatus(row.status),
        "priority": Rank(row.priority),
        "language": None if row.language is None else Language(row.language),
    }
    return Task(**{**row._asdict(), **known})


async def record_changes(connection: AsyncConnection, tasks: Sequence[Task]) -> None:
    """Write the event of each task's new state; part of the transaction that has changed them."""
    if not tasks:
        return
    rows = [
        {"user_id": task.user_id, "task_id": task.id, "body": {"event": TASK_EVENT, **task.body()}} for task in tasks
    ]
    now = seconds_from_now(connection.dialect.name, 0)
    await connection.execute(insert(TaskEvent).values(created_at=literal_column(now)), rows)


def database_time(dialect: str, seconds: int = 0) -> ColumnElement[datetime]:
    """Return the database's own time, so many seconds later: the clock that all processes share."""
    return literal_column(seconds_from_now(dialect, seconds))


def _json_time(moment: datetime) -> str:
    return f"{moment.replace(tzinfo=None).isoformat()}Z"
