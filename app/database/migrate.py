"""Bring the schema up to date with Alembic: one process at a time, and a missing MySQL database is created."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loguru import logger
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.config.settings import PROJECT_ROOT, Settings
from app.database.engine import SQLITE_BEGIN_IMMEDIATE, mysql_connect_arguments
from app.database.transactions import is_passing, reason
from app.errors import DatabaseUnavailable

MIGRATIONS_DIR = PROJECT_ROOT / "sql" / "migrations"
HEAD_REVISION = "0015"
LOCK_TIMEOUT_SECONDS = 120
# A database that starts together with the service (compose, a reboot) may need this long.
WAIT_FOR_DATABASE_SECONDS = 60
_UNKNOWN_DATABASE = 1049


async def migrate(engine: AsyncEngine, settings: Settings) -> None:
    """Create or upgrade the schema to `HEAD_REVISION`; wait for a database that is still starting.

    Raises:
        DatabaseUnavailable: the database cannot be reached in time, another process holds the lock too long, the
            tables are those of a newer version, or a statement of the migrations fails.
    """
    await wait_for_database(engine, settings)
    try:
        if await revision(engine) == HEAD_REVISION:
            return
        async with exclusive(engine) as connection:
            current = await connection.run_sync(_current_revision)
            if current is not None and current > HEAD_REVISION:
                raise DatabaseUnavailable(
                    f"The tables are at revision {current}, which this version does not know ({HEAD_REVISION} is its "
                    "last): start the newer version again, or restore a backup from before it."
                )
            if current != HEAD_REVISION:
                await connection.run_sync(_upgrade)
                logger.info("database schema is at revision {}", HEAD_REVISION)
    except DBAPIError as error:
        # Such as a right that is missing, or the same migration on another node of a cluster, whose locks are its own.
        raise DatabaseUnavailable(
            f"The tables cannot be brought to revision {HEAD_REVISION}. If another process is at it, start again when "
            f"it is through. ({reason(error)})"
        ) from error


async def revision(engine: AsyncEngine) -> str | None:
    """Return the revision of the schema, None where there is none yet. Raises what the driver raises."""
    async with engine.connect() as connection:
        return await connection.run_sync(_current_revision)


def _current_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    # Alembic is needed only here, and importing it costs a good part of a cold start.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_DIR).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@asynccontextmanager
async def exclusive(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection in a transaction that no other process can have at the same time.

    Raises:
        DatabaseUnavailable: another process has it for longer than `LOCK_TIMEOUT_SECONDS`.
    """
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            await connection.execution_options(**{SQLITE_BEGIN_IMMEDIATE: True})
            await _begin_alone(connection)
            yield connection
            await connection.commit()
            return
        lock = {"name": f"migrate:{engine.url.database}"[:64], "seconds": LOCK_TIMEOUT_SECONDS}
        if await connection.scalar(text("SELECT GET_LOCK(:name, :seconds)"), lock) != 1:
            raise DatabaseUnavailable("Another process is changing the database and does not finish.")
        try:
            yield connection
            await connection.commit()
        except BaseException:
            # The lock ends with its connection, also one that is lost already and could not be asked to release it.
            await connection.invalidate()
            raise
        await connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": lock["name"]})


async def _begin_alone(connection: AsyncConnection) -> None:
    """Begin SQLite's writing transaction; its own wait is for other requests, and too short for a whole migration."""
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            await connection.begin()
        except OperationalError as error:
            if not is_passing(error):
                raise
            if time.monotonic() > deadline:
                raise DatabaseUnavailable("Another process is changing the database and does not finish.") from error
        else:
            return


async def wait_for_database(engine: AsyncEngine, settings: Settings) -> None:
    """Return when the database takes connections; a missing one is created if MIGRATE_ON_START is true.

    Raises:
        DatabaseUnavailable: it does not within `WAIT_FOR_DATABASE_SECONDS`, or never will.
    """
    deadline = time.monotonic() + WAIT_FOR_DATABASE_SECONDS
    while True:
        try:
            async with engine.connect():
                return
        except (OperationalError, OSError) as error:
            number = getattr(getattr(error, "orig", None), "args", (None,))[0]
            if number == _UNKNOWN_DATABASE and settings.database.migrate_on_start:
                await _create_database(settings)
                continue
            if not is_passing(error) or time.monotonic() > deadline:
                # The driver's words name user and host, never the password.
                raise DatabaseUnavailable(
                    f"The database cannot be reached. Check MYSQL_* or DATABASE_URL. ({reason(error)})"
                ) from error
            logger.info("waiting for the database")
            await asyncio.sleep(1.0)


async def _create_database(settings: Settings) -> None:
    url = settings.database_url
    engine = create_async_engine(
        url.set(database=""), poolclass=NullPool, connect_args=mysql_connect_arguments(settings.database)
    )
    name = engine.dialect.identifier_preparer.quote_identifier(url.database or "")
    try:
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    f"CREATE DATABASE IF NOT EXISTS {name} "
                    "DEFAULT CHARACTER SET utf8mb4 DEFAULT COLLATE utf8mb4_unicode_ci"
                )
            )
        logger.info("created database {}", url.database)
    except OperationalError as error:
        raise DatabaseUnavailable(
            f"The database {url.database} does not exist and this user may not create it. Run sql/init.sql as a DBA."
        ) from error
    finally:
        await engine.dispose()
