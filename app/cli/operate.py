"""What an operator does on the machine itself: serve, migrate, shorten the log, make the administrator's key.

These commands read the service's own settings (the environment and `.env`) and work on its database.
"""

import asyncio
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from dotenv import dotenv_values
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config import PROJECT_ROOT, Environment, Settings, load_settings
from app.database.engine import create_engine
from app.database.migrate import HEAD_REVISION, migrate, revision, wait_for_database
from app.database.transactions import reason
from app.errors import AppError
from app.services.request_log import RequestLogService

KEY_NAME = "ADMIN_API_KEY"
# 256 bits, as RFC 4086 asks of a key that must not be guessed for long.
KEY_BYTES = 32

Result = TypeVar("Result")

_messages = Console(stderr=True, highlight=False)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (APP_HOST).")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on (APP_PORT).")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (WEB_CONCURRENCY).")] = None,
) -> None:
    """Serve: one process in development, gunicorn with several workers or with ENV=production."""
    for name, value in (("APP_HOST", host), ("APP_PORT", port), ("WEB_CONCURRENCY", workers)):
        if value is not None:
            os.environ[name] = str(value)
    settings = load_settings()
    is_production = settings.environment is Environment.PRODUCTION
    if not is_production and (settings.workers is None or settings.workers == 1):
        arguments = ["-m", "app"]
    else:
        arguments = ["-m", "gunicorn", "-c", str(PROJECT_ROOT / "gunicorn_config.py"), "app.main:app"]
    # The modules are found whatever folder this is; `.env` is that of the folder, as for every command.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - it takes signals itself, nobody in between


def migrate_database(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if it is not up to date.")
    ] = False,
) -> None:
    """Create or upgrade the tables, for deployments with MIGRATE_ON_START=false."""
    settings = load_settings()
    # Whoever asks for this wants the database made, too.
    database = settings.database.model_copy(update={"migrate_on_start": not check})
    settings = settings.model_copy(update={"database": database})

    async def run(engine: AsyncEngine) -> str | None:
        if not check:
            await wait_for_database(engine, settings)
        before = await revision(engine)
        if not check:
            await migrate(engine, settings)
        return before

    before = _with_engine(settings, run)
    if not check:
        _messages.print(
            f"up to date at {HEAD_REVISION}" if before == HEAD_REVISION else f"{before or 'empty'} -> {HEAD_REVISION}"
        )
    elif before != HEAD_REVISION:
        _messages.print(f"not up to date: {before or 'empty'}, not {HEAD_REVISION}")
        raise typer.Exit(1)


def purge_logs(
    older_than: Annotated[int | None, typer.Option(min=0, help="Days; left out: LOG_RETENTION_DAYS.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Delete old rows of the request log. Totals and statistics of past days stay."""
    settings = load_settings()
    days = settings.statistics.log_retention_days if older_than is None else older_than
    if older_than is None and days == 0:
        _messages.print("LOG_RETENTION_DAYS=0 keeps the log for ever; say --older-than DAYS.")
        raise typer.Exit(2)
    cutoff = utc_now() - timedelta(days=days)

    async def run(engine: AsyncEngine) -> int:
        log = RequestLogService(engine, settings.statistics.timezone)
        if dry_run:
            return await log.count_older_than(cutoff)
        deleted = await log.delete_older_than(cutoff)
        await log.forget_visitors(cutoff)
        return deleted

    count = _with_engine(settings, run)
    _messages.print(f"{count} log rows older than {days} days{' would be' if dry_run else ''} deleted")


def create_admin(
    env_file: Annotated[Path, typer.Option(help="Where the setting is written.")] = Path(".env"),
    force: Annotated[bool, typer.Option("--force", help="Replace a key that is there.")] = False,
    print_only: Annotated[bool, typer.Option("--print-only", help="Write nothing.")] = False,
) -> None:
    """Make an ADMIN_API_KEY, write it to .env and show it once. The service reads it when it starts."""
    key = secrets.token_urlsafe(KEY_BYTES)
    if not print_only:
        try:
            _write_setting(env_file, KEY_NAME, key, replace=force)
        except FileExistsError:
            _messages.print(f"{env_file} has an {KEY_NAME} already; --force replaces it.")
            raise typer.Exit(1) from None
        except OSError as error:
            _messages.print(f"{env_file}: {error.strerror}")
            raise typer.Exit(1) from None
        _messages.print(f"written to {env_file}; restart the service")
    sys.stdout.write(f"{key}\n")


def _write_setting(path: Path, name: str, value: str, *, replace: bool) -> None:
    """Write NAME=value into an `.env` file, whole or not at all, readable for its owner only.

    Raises:
        FileExistsError: it has a value for it, and `replace` is not said.
        OSError: it cannot be written.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if path.exists() and dotenv_values(path, interpolate=False).get(name) and not replace:
        raise FileExistsError
    kept = [line for line in lines if line.removeprefix("export ").split("=", 1)[0].strip() != name]
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.absolute().parent, prefix=".env-", delete=False
    ) as file:
        file.write("\n".join([*kept, f"{name}={value}"]) + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(stat.S_IRUSR | stat.S_IWUSR)
    Path(file.name).replace(path.resolve())


def _with_engine(settings: Settings, run: Callable[[AsyncEngine], Awaitable[Result]]) -> Result:
    """Return what `run` returns for an engine on the configured database; its errors become an exit status of 1."""

    async def with_engine() -> Result:
        engine = create_engine(settings)
        try:
            return await run(engine)
        finally:
            await engine.dispose()

    try:
        return asyncio.run(with_engine())
    except AppError as error:
        _messages.print(str(error), markup=False)
    except (SQLAlchemyError, OSError) as error:
        _messages.print(
            f"The database cannot be reached. Check MYSQL_* or DATABASE_URL. ({reason(error)})", markup=False
        )
    raise typer.Exit(1)
