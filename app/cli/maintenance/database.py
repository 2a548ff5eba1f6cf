"""What `migrate`, `purge-logs` and `forget` do with the configured database. Importing it takes a second."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.migrate import HEAD_REVISION, migrate, revision, wait_for_database
from app.database.transactions import reason
from app.errors import AppError
from app.observability.logging import configure_logging
from app.services.audit.service import Action, AuditLog
from app.services.privacy.forgetting import Forgotten
from app.services.privacy.service import PrivacyService
from app.services.request_log.service import RequestLogService

Result = TypeVar("Result")


class CannotBeDone(Exception):
    """The database is not as it must be, or not there; the text says what to do."""


def schema_revision(settings: Settings) -> str | None:
    """Return the revision of the tables, None where there are none; nothing is created.

    Raises:
        CannotBeDone: the database cannot be reached.
    """
    return None if _is_missing(settings) else _with_engine(settings, revision)


def upgrade(settings: Settings) -> str | None:
    """Create or upgrade the tables, whatever MIGRATE_ON_START says, and return the revision that they had before.

    Raises:
        CannotBeDone: the database cannot be reached, or is newer than this program.
    """
    # An operator who asks for this wants the database made, too.
    database = settings.database.model_copy(update={"migrate_on_start": True})
    settings = settings.model_copy(update={"database": database})

    async def run(engine: AsyncEngine) -> str | None:
        await wait_for_database(engine, settings)
        before = await revision(engine)
        await migrate(engine, settings)
        return before

    return _with_engine(settings, run)


def count_old_rows(settings: Settings, days: int) -> int:
    """Return how many rows of the request log are older than so many days.

    Raises:
        CannotBeDone: the database cannot be reached, or the tables are not those of this version.
    """

    async def run(engine: AsyncEngine, log: RequestLogService) -> int:
        return await log.count_older_than(utc_now() - timedelta(days=days))

    return _with_log(settings, run)


def delete_old_rows(settings: Settings, days: int) -> int:
    """Delete them, who was seen on those days, and users not seen since; return how many rows. The sums stay.

    Raises:
        CannotBeDone: as above.
    """

    async def run(engine: AsyncEngine, log: RequestLogService) -> int:
        cutoff = utc_now() - timedelta(days=days)
        deleted = await log.delete_older_than(cutoff)
        await log.forget_visitors(cutoff)
        await log.forget_users(cutoff)
        return deleted

    return _with_log(settings, run)


def forget_user(settings: Settings, user_id: str) -> Forgotten:
    """Forget a user; return how many rows named it.

    Raises:
        CannotBeDone: as above.
    """

    async def run(engine: AsyncEngine) -> Forgotten:
        forgotten = await PrivacyService(engine).forget(user_id)
        # Without the id, which is forgotten.
        await AuditLog(engine).record(Action.USER_FORGOTTEN, operator())
        return forgotten

    return on_current_tables(settings, run)


def operator() -> str:
    """Return who works at the command line, for the audit log."""
    return f"cli:{os.environ.get('SUDO_USER') or os.environ.get('USER') or os.getuid()}"


def on_current_tables(settings: Settings, work: Callable[[AsyncEngine], Awaitable[Result]]) -> Result:
    """Return what `work` returns for an engine on the configured database, whose tables are those of this version.

    Raises:
        CannotBeDone: they are not, or the database cannot be reached.
    """

    async def run(engine: AsyncEngine) -> Result:
        if (found := await revision(engine)) != HEAD_REVISION:
            raise CannotBeDone(f"The tables are at {found or 'nothing'}, not {HEAD_REVISION}: migrate them first.")
        return await work(engine)

    if _is_missing(settings):
        raise CannotBeDone("There is no database yet.")
    return _with_engine(settings, run)


def _with_log(settings: Settings, work: Callable[[AsyncEngine, RequestLogService], Awaitable[Result]]) -> Result:
    async def run(engine: AsyncEngine) -> Result:
        return await work(engine, RequestLogService(engine, settings.statistics.timezone))

    return on_current_tables(settings, run)


def _is_missing(settings: Settings) -> bool:
    """Whether the database is a file that is not there: a connection would create it."""
    url = settings.database_url
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()


def _with_engine(settings: Settings, run: Callable[[AsyncEngine], Awaitable[Result]]) -> Result:
    """Return what `run` returns for an engine on the configured database; its errors become CannotBeDone."""
    # Not to LOG_DIR: root's hand would make the day's file its own, and the service could not write to it.
    log = settings.log.model_copy(update={"folder": None})
    configure_logging(settings.model_copy(update={"log": log}))

    async def with_engine() -> Result:
        engine = create_engine(settings)
        try:
            return await run(engine)
        finally:
            await engine.dispose()

    try:
        return asyncio.run(with_engine())
    except AppError as error:
        raise CannotBeDone(str(error)) from error
    except CommandError as error:
        raise CannotBeDone(f"The tables are not of a version that is known here. ({error})") from error
    except (SQLAlchemyError, OSError) as error:
        raise CannotBeDone(f"The database cannot be used. Check MYSQL_* or DATABASE_URL. ({reason(error)})") from error
