"""The operator's commands on a real database, and a service that they start."""

import asyncio
import os
import stat
import sys
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from dotenv import dotenv_values
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config import PROJECT_ROOT, Settings
from app.database.engine import create_engine
from app.database.migrate import HEAD_REVISION
from app.database.tables import RequestLog
from tests.cli.running import run
from tests.servers.processes import free_port, start_process


async def test_the_schema_is_checked_made_and_found_up_to_date(empty_database: Settings, tmp_path: Path) -> None:
    url = empty_database.database_url.render_as_string(hide_password=False)
    behind = await run("migrate", "--check", cwd=tmp_path, DATABASE_URL=url)
    assert behind.status == 1, behind.messages
    made = await run("migrate", cwd=tmp_path, DATABASE_URL=url, MIGRATE_ON_START="false")
    assert made.status == 0, made.messages
    assert f"empty -> {HEAD_REVISION}" in made.messages
    assert (await run("migrate", "--check", cwd=tmp_path, DATABASE_URL=url)).status == 0
    assert "up to date" in (await run("migrate", cwd=tmp_path, DATABASE_URL=url)).messages


async def test_tables_of_a_newer_version_are_told_in_a_sentence(empty_database: Settings, tmp_path: Path) -> None:
    """Whoever goes back to an old version without a restore."""
    url = empty_database.database_url.render_as_string(hide_password=False)
    await run("migrate", cwd=tmp_path, DATABASE_URL=url)
    engine = create_engine(empty_database)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    done = await run("migrate", cwd=tmp_path, DATABASE_URL=url)
    assert done.status == 1
    # However wide the terminal is.
    assert f"9999, which this version does not know ({HEAD_REVISION}" in " ".join(done.messages.split())
    assert "Traceback" not in done.messages


async def test_a_database_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    done = await run("purge-logs", cwd=tmp_path, DATABASE_URL="mysql://root:secret@127.0.0.1:9/x")
    assert done.status == 1
    assert "cannot be reached" in done.messages
    assert "secret" not in done.messages
    assert "Traceback" not in done.messages


async def test_old_log_rows_are_counted_and_then_deleted(
    settings: Settings, engine: AsyncEngine, tmp_path: Path
) -> None:
    async with engine.begin() as connection:
        for days in (1, 40, 50):
            row = {
                "request_id": f"req_{days}",
                "image_hash": "a" * 64,
                "category": "pets",
                "confidence": 1,
                "from_cache": False,
                "created_at": utc_now() - timedelta(days=days),
            }
            await connection.execute(insert(RequestLog).values(row))
    url = settings.database_url.render_as_string(hide_password=False)
    counted = await run("purge-logs", "--older-than", "30", "--dry-run", cwd=tmp_path, DATABASE_URL=url)
    assert counted.messages.startswith("2 log rows"), counted.messages
    deleted = await run("purge-logs", cwd=tmp_path, DATABASE_URL=url, LOG_RETENTION_DAYS="45")
    assert deleted.messages.startswith("1 log rows")
    assert (await run("purge-logs", cwd=tmp_path, DATABASE_URL=url, LOG_RETENTION_DAYS="0")).status == 2
    left = await run("purge-logs", "--older-than", "0", "--dry-run", cwd=tmp_path, DATABASE_URL=url)
    assert left.messages.startswith("2 log rows")


async def test_the_administrators_key_is_written_once_and_keeps_the_rest(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("# mine\nAPP_PORT=8001\nADMIN_API_KEY=\n")
    made = await run("create-admin", cwd=tmp_path)
    assert made.status == 0, made.messages
    key = made.output.strip()
    assert len(key) >= 43
    assert dotenv_values(env_file) == {"APP_PORT": "8001", "ADMIN_API_KEY": key}
    assert env_file.read_text().startswith("# mine\n")
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    refused = await run("create-admin", cwd=tmp_path)
    assert refused.status == 1
    assert refused.output == ""
    assert dotenv_values(env_file)["ADMIN_API_KEY"] == key
    replaced = await run("create-admin", "--force", cwd=tmp_path)
    assert dotenv_values(env_file)["ADMIN_API_KEY"] == replaced.output.strip() != key
    shown = await run("create-admin", "--print-only", cwd=tmp_path)
    assert shown.output != replaced.output
    assert dotenv_values(env_file)["ADMIN_API_KEY"] == replaced.output.strip()
    left = await asyncio.to_thread(os.listdir, tmp_path)
    assert left == [".env"]


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_starts_one_process_or_gunicorn(environment: dict[str, str], tmp_path: Path, workers: int) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api/v1/health"

    def answers() -> bool:
        try:
            return httpx2.get(url, timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--workers", str(workers)]
    (tmp_path / "tmp").mkdir()
    with start_process(
        command,
        ready=answers,
        env={**environment, "PYTHONPATH": str(PROJECT_ROOT), "HOME": os.environ.get("HOME", "/")},
        cwd=tmp_path,
        ready_within_seconds=60,
    ) as process:
        command_line = Path(f"/proc/{process.pid}/cmdline")
        if command_line.exists():
            assert ("gunicorn" in command_line.read_text()) == (workers > 1)
