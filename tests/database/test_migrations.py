"""Upgrades of tables that hold rows, and the way back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.migrate import HEAD_REVISION, exclusive, migrate, revision
from app.errors import DatabaseUnavailable
from tests.support.migrations import downgrade_to, upgrade_to

SHA256 = "ab" * 32


@pytest.fixture
async def empty(empty_database: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine on a database without tables."""
    engine = create_engine(empty_database)
    yield engine
    await engine.dispose()


async def test_a_migration_waits_for_that_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite, whose own wait is shorter than a migration may be on a busy machine."""
    monkeypatch.setattr("app.database.engine.SQLITE_BUSY_TIMEOUT_SECONDS", 0.01)
    settings = Settings(data_dir=tmp_path)
    ours, theirs = create_engine(settings), create_engine(settings)
    try:
        async with exclusive(theirs):
            migrating = asyncio.create_task(migrate(ours, settings))
            await asyncio.wait({migrating}, timeout=0.3)
            assert not migrating.done()
        await migrating
        assert await revision(ours) == HEAD_REVISION
        monkeypatch.setattr("app.database.migrate.LOCK_TIMEOUT_SECONDS", 0)
        async with exclusive(theirs):
            with pytest.raises(DatabaseUnavailable, match="does not finish"):
                await exclusive(ours).__aenter__()
    finally:
        await asyncio.gather(ours.dispose(), theirs.dispose())


async def run(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def rows(engine: AsyncEngine, query: str) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def columns(engine: AsyncEngine) -> dict[str | None, set[str]]:
    async with engine.connect() as connection:
        found = await connection.run_sync(lambda sync: inspect(sync).get_multi_columns())
    return {table: {column["name"] for column in columns} for (_, table), columns in found.items()}


async def test_events_go_with_their_task_from_now_on(empty: AsyncEngine) -> None:
    await upgrade_to(empty, "0007")
    event = "INSERT INTO task_event (id, user_id, task_id, body, created_at) VALUES ({}, 1, '{}', '{{}}', '2026-11-29')"
    await run(
        empty,
        "INSERT INTO users (id, username, username_key, email, email_key, password_hash)"
        " VALUES (1, 'a', 'a', 'a', 'a', '')",
        f"INSERT INTO stored_file (sha256, version, size_bytes) VALUES ('{SHA256}', '1', 1)",
        "INSERT INTO library_image (id, user_id, sha256, filename, format, width, height, size_bytes)"
        f" VALUES (1, 1, '{SHA256}', 'a', 'jpeg', 1, 1, 1)",
        "INSERT INTO inference_task (id, user_id, image_id, model_name, status, due_at)"
        " VALUES ('there', 1, 1, 'm', 'completed', '2026-11-29')",
        event.format(1, "gone"),
        event.format(2, "there"),
    )
    await upgrade_to(empty, "head")
    assert await rows(empty, "SELECT id, user_id, task_id FROM task_event") == [(2, 1, "there")]
    await run(empty, "DELETE FROM library_image")
    assert await rows(empty, "SELECT id FROM task_event") == []


async def test_every_migration_can_be_undone(empty: AsyncEngine) -> None:
    await upgrade_to(empty, "head")
    newest = await columns(empty)
    await downgrade_to(empty, "0001")
    assert await revision(empty) == "0001"
    assert {"model_call", "api_key", "stats_day"}.isdisjoint(await columns(empty))
    await upgrade_to(empty, "head")
    assert await revision(empty) == HEAD_REVISION
    assert await columns(empty) == newest


async def test_ids_that_differ_by_their_bytes_alone_keep_the_tables_where_they_are(empty: AsyncEngine) -> None:
    if empty.dialect.name == "sqlite":
        pytest.skip("SQLite compares bytes before and after")
    await upgrade_to(empty, "0004")
    await run(
        empty,
        "INSERT INTO stats_user (user_id, requests, hits, first_request_at, last_request_at)"
        " VALUES ('a', 1, 0, '2026-11-29', '2026-11-29'), ('á', 2, 0, '2026-11-29', '2026-11-29')",
    )
    with pytest.raises(RuntimeError, match="stats_user"):
        await downgrade_to(empty, "0003")
    assert await rows(empty, "SELECT requests FROM stats_user ORDER BY requests") == [(1,), (2,)]
    assert await revision(empty) == "0004"
    # Nothing was changed: the binary collation is still there.
    assert await rows(empty, "SELECT requests FROM stats_user WHERE user_id = 'a'") == [(1,)]
