"""Changes of tasks, written as those who run tasks write them: one row in a transaction."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.tables.inference import TaskEvent
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
    """Insert one without a commit, and return its id."""
    now = datetime.now(UTC).replace(tzinfo=None)
    values = {"user_id": user_id, "task_id": TASK_ID, "body": body, "created_at": now}
    inserted = await connection.execute(insert(TaskEvent).values(**values))
    assert inserted.inserted_primary_key is not None
    return int(inserted.inserted_primary_key[0])
