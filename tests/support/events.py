"""Changes of tasks, written as those who run tasks write them: one row in a transaction."""

import secrets
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.tables.inference import InferenceTask, TaskEvent
from app.database.tables.library import LibraryImage, StoredFile
from app.database.transactions import write

TASK_ID = "0" * 32


def body_of(status: str = "completed", **more: Any) -> dict[str, Any]:
    """What a task's status answers, and that it is a task's."""
    return {"event": "task", "task_id": TASK_ID, "status": status, **more}


async def add_event(engine: AsyncEngine, user_id: int, status: str = "completed", **more: Any) -> int:
    """Write one event and return its id."""
    return (await add_events(engine, user_id, 1, status, **more))[0]


async def add_events(
    engine: AsyncEngine, user_id: int, count: int, status: str = "completed", **more: Any
) -> list[int]:
    """Write several in one transaction and return their ids."""

    async def insert_all(connection: AsyncConnection) -> list[int]:
        return [await insert_event(connection, user_id, body_of(status, **more)) for _ in range(count)]

    return await write(engine, insert_all)


async def insert_event(connection: AsyncConnection, user_id: int, body: dict[str, Any]) -> int:
    """Insert one without a commit, and return its id; transactions that do so do not wait for each other."""
    now = datetime.now(UTC).replace(tzinfo=None)
    values = {
        "user_id": user_id,
        "task_id": await _insert_task(connection, user_id, now),
        "body": body,
        "created_at": now,
    }
    inserted = await connection.execute(insert(TaskEvent).values(**values))
    assert inserted.inserted_primary_key is not None
    return int(inserted.inserted_primary_key[0])


async def _insert_task(connection: AsyncConnection, user_id: int, now: datetime) -> str:
    """Insert a task with a picture of its own, and return its id."""
    sha256, task_id = secrets.token_hex(32), secrets.token_hex(16)
    await connection.execute(insert(StoredFile).values(sha256=sha256, version="1", size_bytes=1))
    picture = {"filename": "a.jpg", "format": "jpeg", "width": 1, "height": 1, "size_bytes": 1}
    image = await connection.execute(insert(LibraryImage).values(user_id=user_id, sha256=sha256, **picture))
    assert image.inserted_primary_key is not None
    task = {"id": task_id, "image_id": image.inserted_primary_key[0], "model_name": "m", "status": "completed"}
    await connection.execute(insert(InferenceTask).values(user_id=user_id, due_at=now, **task))
    return task_id
