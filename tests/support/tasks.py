"""Tasks for tests: their rows and events, people with pictures, and an inference that needs no model."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.heartbeat import Heartbeat
from app.database.tables.accounts import User
from app.database.tables.heartbeat import ProcessHeartbeat
from app.database.tables.inference import InferenceResult, InferenceTask, TaskEvent
from app.database.tables.library import LibraryImage, StoredFile
from app.database.transactions import read, write
from app.language.accept import Language
from app.services.tasks.claims import TaskClaims
from app.services.tasks.service import TaskService

SHA256 = "ab" * 32


class FakeInference:
    """Stores a result as the real one does; `script` is what the next calls wait for or raise."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.calls: list[str | None] = []
        self.script: list[Exception | asyncio.Event] = []

    async def infer(
        self,
        account_id: int,
        image_id: int,
        model_name: str,
        *,
        task_id: str | None = None,
        batch_item: str | None = None,
        language: Language | None = None,
        on_saved: Callable[[AsyncConnection, int], Awaitable[None]] | None = None,
    ) -> object:
        self.calls.append(task_id)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            await step.wait()

        async def store(connection: AsyncConnection) -> int:
            inserted = await connection.execute(
                insert(InferenceResult).values(
                    user_id=account_id,
                    image_id=image_id,
                    task_id=task_id,
                    model_name=model_name,
                    model="fake",
                    image_hash=SHA256,
                    category="foods",
                    confidence=1,
                    from_cache=0,
                    processing_time_ms=1,
                    request_id="req",
                    created_at=utc_now(),
                )
            )
            assert inserted.inserted_primary_key is not None
            result_id = int(inserted.inserted_primary_key[0])
            if on_saved is not None:
                await on_saved(connection, result_id)
            return result_id

        return await write(self.engine, store)


def claims_on(engine: AsyncEngine, *, max_attempts: int = 3) -> TaskClaims:
    """Claims of a process of its own."""
    return TaskClaims(engine, Heartbeat(engine), max_attempts=max_attempts, on_change=lambda: None)


def tasks_on(engine: AsyncEngine) -> TaskService:
    """Tasks that wake no runner."""
    return TaskService(engine, wake=lambda: None, on_change=lambda: None, patience_seconds=lambda _: 0)


async def let_it_stall(engine: AsyncEngine, claims: TaskClaims) -> None:
    """Make the process look as if it had been silent for too long."""

    async def forget(connection: AsyncConnection) -> None:
        own = ProcessHeartbeat.process_id == claims.heartbeat.process_id
        assert (await connection.execute(delete(ProcessHeartbeat).where(own))).rowcount == 1

    await write(engine, forget)


async def make_image(engine: AsyncEngine, username: str = "someone") -> tuple[int, int]:
    """Make an account with a picture; return the ids of both."""

    async def make(connection: AsyncConnection) -> tuple[int, int]:
        names = {"username": username, "username_key": username, "email": username, "email_key": username}
        user = await connection.execute(insert(User).values(**names, password_hash="none"))
        if await connection.scalar(select(StoredFile.sha256)) is None:
            await connection.execute(insert(StoredFile).values(sha256=SHA256, version="1", size_bytes=1))
        assert user.inserted_primary_key is not None
        image = await connection.execute(
            insert(LibraryImage).values(
                user_id=user.inserted_primary_key[0],
                sha256=SHA256,
                filename="a.jpg",
                format="jpeg",
                width=1,
                height=1,
                size_bytes=1,
            )
        )
        assert image.inserted_primary_key is not None
        return int(user.inserted_primary_key[0]), int(image.inserted_primary_key[0])

    return await write(engine, make)


async def delete_image(engine: AsyncEngine, image_id: int) -> None:
    async def remove(connection: AsyncConnection) -> None:
        await connection.execute(delete(LibraryImage).where(LibraryImage.id == image_id))

    await write(engine, remove)


async def events_of(engine: AsyncEngine, task_id: str) -> list[dict[str, Any]]:
    async def select_bodies(connection: AsyncConnection) -> list[dict[str, Any]]:
        query = select(TaskEvent.body).where(TaskEvent.task_id == task_id).order_by(TaskEvent.id)
        return list((await connection.scalars(query)).all())

    return await read(engine, select_bodies)


async def statuses_of(engine: AsyncEngine, task_id: str) -> list[str]:
    """The states that a task has been in, as its events tell."""
    return [body["status"] for body in await events_of(engine, task_id)]


async def count_results(engine: AsyncEngine, task_id: str | None = None) -> int:
    async def count(connection: AsyncConnection) -> int:
        query = select(func.count()).select_from(InferenceResult)
        if task_id is not None:
            query = query.where(InferenceResult.task_id == task_id)
        return int(await connection.scalar(query) or 0)

    return await read(engine, count)


async def count_tasks(engine: AsyncEngine, status: str) -> int:
    async def count(connection: AsyncConnection) -> int:
        query = select(func.count()).select_from(InferenceTask).where(InferenceTask.status == status)
        return int(await connection.scalar(query) or 0)

    return await read(engine, count)


async def until(condition: Callable[[], Awaitable[bool]], what: str, within_seconds: float = 120) -> None:
    """Return when `condition` holds."""
    deadline = asyncio.get_running_loop().time() + within_seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {within_seconds} s: {what}"
        await asyncio.sleep(0.02)
