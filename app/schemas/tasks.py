"""Asynchronous tasks over the wire."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.common import EXAMPLE_TIMESTAMP, Timestamp
from app.services.tasks.record import Priority, TaskStatus

EXAMPLE_TASK_ID = "5f0c3a8e9d2b47c1a6e4f8b0d7392c15"
_URL = f"/images/inference/tasks/{EXAMPLE_TASK_ID}"

TaskId = Annotated[str, Field(description="32 hex digits.", examples=[EXAMPLE_TASK_ID])]
PriorityField = Annotated[Priority, Field(description="`low`: it may wait for a batch, at half the price.")]
StatusField = Annotated[TaskStatus, Field(description="`completed`, `failed` and `cancelled` are final.")]


class TaskError(BaseModel):
    """Why a task has failed."""

    code: Annotated[str, Field(examples=["model_unreachable"])]
    message: Annotated[str, Field(examples=["The model cannot be reached."])]


class TaskAccepted(BaseModel):
    """A task that was made."""

    task_id: TaskId
    status: StatusField
    status_url: Annotated[str, Field(description="Where to ask for it.", examples=[_URL])]
    result_url: Annotated[
        str, Field(description="The same address: its `result_url` leads to the result.", examples=[_URL])
    ]
    image_id: Annotated[int, Field(examples=[1])]
    model_name: Annotated[str, Field(examples=["dummy"])]
    priority: PriorityField
    created_at: Timestamp


class TaskAnswer(BaseModel):
    """A task."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task_id": EXAMPLE_TASK_ID,
                    "status": "completed",
                    "image_id": 1,
                    "model_name": "dummy",
                    "priority": "normal",
                    "job_id": None,
                    "attempts": 1,
                    "result_id": 2,
                    "result_url": "/images/inference/2",
                    "error": None,
                    "created_at": EXAMPLE_TIMESTAMP,
                    "updated_at": EXAMPLE_TIMESTAMP,
                }
            ]
        }
    )

    task_id: TaskId
    status: StatusField
    image_id: int
    model_name: str
    priority: PriorityField
    job_id: Annotated[str | None, Field(description="The job that it is part of, or null.")]
    attempts: Annotated[int, Field(ge=0, description="How often it was begun.")]
    result_id: int | None
    result_url: Annotated[str | None, Field(description="Where the result is, once it is completed.")]
    error: Annotated[TaskError | None, Field(description="Why it has failed; else null.")]
    created_at: Timestamp
    updated_at: Timestamp


class TaskList(BaseModel):
    """Some tasks, newest first; `total` counts all that match."""

    items: list[TaskAnswer]
    total: Annotated[int, Field(ge=0, examples=[1])]
    skip: Annotated[int, Field(examples=[0])]
    limit: Annotated[int, Field(examples=[20])]
