"""Requests with an Idempotency-Key, and what is kept and counted of them."""

from typing import Any
from uuid import uuid4

import httpx2
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.tables.columns import Base
from app.database.tables.idempotency import IdempotentAnswer


def with_key(key: str | None = None, **headers: str) -> dict[str, str]:
    """The header with a key, a new one where none is given, and others."""
    return {"Idempotency-Key": key or str(uuid4()), **headers}


def is_replay(answer: httpx2.Response) -> bool:
    return answer.headers.get("Idempotency-Replayed") == "true"


def check_replay(first: httpx2.Response, again: httpx2.Response) -> None:
    """The second answer is the first one given again."""
    assert not is_replay(first)
    assert is_replay(again)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]


async def count_rows(engine: AsyncEngine, table: type[Base]) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(table)) or 0


async def kept_of(engine: AsyncEngine) -> list[Any]:
    """The rows of the kept answers."""
    async with engine.connect() as connection:
        return list((await connection.execute(select(IdempotentAnswer))).all())


async def age_answers(engine: AsyncEngine, hours: int) -> None:
    """Make all answers so much older."""
    older = f"created_at - INTERVAL {hours} HOUR"
    if engine.dialect.name == "sqlite":
        older = f"strftime('%Y-%m-%d %H:%M:%f', created_at, '-{hours} hours')"
    async with engine.begin() as connection:
        await connection.execute(update(IdempotentAnswer).values(created_at=text(older)))
