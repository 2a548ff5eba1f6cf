"""What a process needs of the databases: the main one with up-to-date tables, its heartbeat there, and a replica."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.database.engine import create_engine, create_replica_engine
from app.database.heartbeat import Heartbeat
from app.database.migrate import migrate, wait_for_database
from app.database.replica import Replica


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """Migrate the main database, or wait until it is migrated; the pool is closed at the end of the block.

    Raises:
        AppError: the database is not usable.
    """
    engine = create_engine(settings)
    try:
        if settings.database.migrate_on_start:
            await migrate(engine, settings)
        else:
            await wait_for_database(engine, settings)
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def open_replica(settings: Settings, main: AsyncEngine) -> AsyncIterator[Replica | None]:
    """Yield the read replica, or None without one; the pool is closed at the end of the block."""
    engine = create_replica_engine(settings)
    if engine is None:
        yield None
        return
    try:
        yield Replica(main, engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def open_heartbeat(engine: AsyncEngine) -> AsyncIterator[Heartbeat]:
    """Yield the heartbeat of this process; what the process owns must be released by the end of the block."""
    heartbeat = Heartbeat(engine)
    try:
        yield heartbeat
    finally:
        await heartbeat.close()
