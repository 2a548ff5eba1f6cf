"""The operator's commands on a real database, and a service that they start."""

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from app.cli.main import cli
from app.clock import utc_now
from app.config.settings import PROJECT_ROOT, Settings
from app.database.engine import create_engine
from app.database.migrate import HEAD_REVISION
from app.database.tables.request_log import RequestLog
from app.services.audit.service import Action, AuditLog
from tests.servers.processes import free_port, start_process
from tests.support.audit import entries
from tests.support.command_line import run


async def test_the_schema_is_checked_made_and_found_up_to_date(empty_database: Settings, tmp_path: Path) -> None:
    url = empty_database.database_url.render_as_string(hide_password=False)
    behind = await run("migrate", "--check", cwd=tmp_path, DATABASE_URL=url)
    assert behind.status == 1, behind.messages
    made = await run("migrate", cwd=tmp_path, DATABASE_URL=url, MIGRATE_ON_START="false")
    assert made.status == 0, made.messages
    assert f"empty -> {HEAD_REVISION}" in made.messages
    assert (await run("migrate", "--check", cwd=tmp_path, DATABASE_URL=url)).status == 0
    assert "up to date" in (await run("migrate", cwd=tmp_path, DATABASE_URL=url)).messages


async def test_a_database_of_another_version_is_left_alone(empty_database: Settings, tmp_path: Path) -> None:
    url = empty_database.database_url.render_as_string(hide_password=False)
    engine = create_engine(empty_database)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('9999')"))
    await engine.dispose()
    for command in (["migrate"], ["purge-logs"]):
        done = await run(*command, cwd=tmp_path, DATABASE_URL=url)
        assert done.status == 1
        assert "9999" in done.messages
        assert "Traceback" not in done.messages


async def test_looking_creates_nothing(tmp_path: Path) -> None:
    for command in (["migrate", "--check"], ["purge-logs"]):
        done = await run(*command, cwd=tmp_path, LOG_DIR="logs")
        assert done.status == 1
        assert len(done.messages.splitlines()) == 1, done.messages
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_tables_of_a_newer_version_are_told_in_a_sentence(empty_database: Settings, tmp_path: Path) -> None:
    """An operator who goes back to an old version without a restore."""
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
    assert "The database cannot be used. Check MYSQL_* or DATABASE_URL." in done.messages
    assert "secret" not in done.messages
    assert "Traceback" not in done.messages


@pytest.fixture
async def log_url(settings: Settings, engine: AsyncEngine) -> str:
    """The URL of a database with log rows of yesterday, and of 40 and 50 days ago."""
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
    return settings.database_url.render_as_string(hide_password=False)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_that_a_user_was_forgotten_is_in_the_audit_log(
    settings: Settings, engine: AsyncEngine, tmp_path: Path
) -> None:
    url = settings.database_url.render_as_string(hide_password=False)
    await AuditLog(engine).record(Action.DEVICE_TOKEN_ISSUED, "key:1", "phone-1")
    done = await run("forget", "phone-1", cwd=tmp_path, DATABASE_URL=url, SUDO_USER="margaret")
    assert done.status == 0, done.messages
    assert "phone-1" not in done.messages
    recorded = [("device_token.issued", "key:1", None, None), ("user.forgotten", "cli:margaret", None, None)]
    assert await entries(engine) == recorded


async def test_old_log_rows_are_counted_and_then_deleted(log_url: str, tmp_path: Path) -> None:
    url = log_url
    counted = await run("purge-logs", "--older-than", "30", "--dry-run", cwd=tmp_path, DATABASE_URL=url)
    assert counted.messages.startswith("2 log rows"), counted.messages
    deleted = await run("purge-logs", cwd=tmp_path, DATABASE_URL=url, LOG_RETENTION_DAYS="45")
    assert deleted.messages.startswith("1 log rows")
    assert (await run("purge-logs", cwd=tmp_path, DATABASE_URL=url, LOG_RETENTION_DAYS="0")).status == 2
    left = await run("purge-logs", "--older-than", "0", "--dry-run", cwd=tmp_path, DATABASE_URL=url)
    assert left.messages.startswith("2 log rows")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_who_sits_at_a_terminal_is_asked_first(log_url: str, tmp_path: Path) -> None:
    for answer, left in (("n", 3), ("y", 0)):
        user, terminal = os.openpty()
        os.write(user, f"{answer}\n".encode())
        done = await run("purge-logs", "--older-than", "0", cwd=tmp_path, stdin=terminal, DATABASE_URL=log_url)
        os.close(user)
        os.close(terminal)
        assert "Delete 3 log rows older than 0 days? [y/N]" in done.messages
        assert (done.status == 0) == (answer == "y")
        counted = await run("purge-logs", "--older-than", "0", "--dry-run", cwd=tmp_path, DATABASE_URL=log_url)
        assert counted.messages.startswith(f"{left} log rows")


@pytest.mark.parametrize("days", ["-1", "36501", "99999999999"])
def test_days_that_no_calendar_has_are_wrong_usage(days: str) -> None:
    done = CliRunner().invoke(cli, ["purge-logs", "--older-than", days])
    assert done.exit_code == 2
    assert "Invalid value" in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_starts_one_process_or_gunicorn(environment: dict[str, str], tmp_path: Path, workers: int) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api/v1/health"

    def answers() -> bool:
        try:
            return httpx2.get(url, timeout=120).status_code == 200
        except httpx2.HTTPError:
            return False

    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--workers", str(workers)]
    (tmp_path / "tmp").mkdir()
    with start_process(
        command,
        ready=answers,
        env={**environment, "PYTHONPATH": str(PROJECT_ROOT), "HOME": os.environ.get("HOME", "/")},
        cwd=tmp_path,
        ready_within_seconds=180,
    ) as process:
        command_line = Path(f"/proc/{process.pid}/cmdline")
        if command_line.exists():
            assert ("gunicorn" in command_line.read_text()) == (workers > 1)
