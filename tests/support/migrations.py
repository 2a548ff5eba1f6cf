"""Migrations to any revision, as Alembic's command line runs them."""

from collections.abc import Callable

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.migrate import MIGRATIONS_DIR, exclusive


async def upgrade_to(engine: AsyncEngine, target: str) -> None:
    """Upgrade the schema to a revision."""
    await _run(engine, lambda config: command.upgrade(config, target))


async def downgrade_to(engine: AsyncEngine, target: str) -> None:
    """Downgrade the schema to a revision."""
    await _run(engine, lambda config: command.downgrade(config, target))


async def _run(engine: AsyncEngine, change: Callable[[Config], None]) -> None:
    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS_DIR))
        config.attributes["connection"] = connection
        change(config)

    async with exclusive(engine) as connection:
        await connection.run_sync(run)
