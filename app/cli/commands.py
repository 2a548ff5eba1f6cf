"""What an operator does on the machine itself: serve, migrate, shorten the log.

These commands read the service's own settings (the environment and `.env`) and work on its database. Both are imported
only when a command runs: they take a second, which `--help` and the client need not wait for.
"""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.output import printable, say

if TYPE_CHECKING:
    from app.cli.maintenance.database import CannotBeDone

# A hundred years: more than a log has, and no date before the first.
MAX_DAYS = 36_500


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (APP_HOST).")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on (APP_PORT).")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (WEB_CONCURRENCY).")] = None,
) -> None:
    """Serve: one process in development, gunicorn with several workers or with ENV=production."""
    from app.config.settings import PROJECT_ROOT, Environment, load_settings

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
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - it takes signals itself, with no process in between


def migrate_database(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if it is not up to date.")
    ] = False,
) -> None:
    """Create or upgrade the tables, for deployments with MIGRATE_ON_START=false."""
    from app.cli.maintenance import database as upkeep
    from app.config.settings import load_settings
    from app.database.migrate import HEAD_REVISION

    settings = load_settings()
    try:
        before = upkeep.schema_revision(settings) if check else upkeep.upgrade(settings)
    except upkeep.CannotBeDone as error:
        raise _told(error) from None
    if before == HEAD_REVISION:
        say(f"up to date at {HEAD_REVISION}")
    elif not check:
        say(f"{before or 'empty'} -> {HEAD_REVISION}")
    else:
        say(f"not up to date: {before or 'empty'}, not {HEAD_REVISION}")
        raise typer.Exit(1)


def purge_logs(
    older_than: Annotated[
        int | None, typer.Option(min=0, max=MAX_DAYS, help="Days; left out: LOG_RETENTION_DAYS.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Delete old rows of the request log. Totals and statistics of past days stay.

    At a terminal, you are asked first if you have said --older-than.
    """
    from app.cli.maintenance import database as upkeep
    from app.config.settings import load_settings

    settings = load_settings()
    days = settings.statistics.log_retention_days if older_than is None else older_than
    if older_than is None and days == 0:
        say("LOG_RETENTION_DAYS=0 keeps the log without end; say --older-than DAYS.")
        raise typer.Exit(2)
    try:
        if dry_run:
            say(f"{upkeep.count_old_rows(settings, days)} log rows older than {days} days would be deleted")
            return
        if older_than is not None and sys.stdin.isatty():
            count = upkeep.count_old_rows(settings, days)
            typer.confirm(f"Delete {count} log rows older than {days} days?", abort=True, err=True)
        say(f"{upkeep.delete_old_rows(settings, days)} log rows older than {days} days deleted")
    except upkeep.CannotBeDone as error:
        raise _told(error) from None


def forget(
    user: Annotated[str, typer.Argument(help="The id as the log has it: what the client sent, or account:ID.")],
) -> None:
    """Forget a device or an account: log, visitors, sums of users and ledger no longer name it. Totals stay.

    At a terminal, you are asked first.
    """
    from app.cli.maintenance import database as upkeep
    from app.config.settings import load_settings

    settings = load_settings()
    if sys.stdin.isatty():
        typer.confirm(f"Forget {printable(user)}? This cannot be undone.", abort=True, err=True)
    try:
        done = upkeep.forget_user(settings, user)
    except upkeep.CannotBeDone as error:
        raise _told(error) from None
    say(f"forgotten: {done.log_rows} log rows, {done.days} days, {done.model_calls} model calls named it")


def _told(error: "CannotBeDone") -> typer.Exit:
    say(str(error))
    return typer.Exit(1)
