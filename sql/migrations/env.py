"""Alembic's entry: the service hands over its connection; on the command line the settings name the database."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from app.config.settings import Settings
from app.database.engine import create_engine
from app.database.tables.schema import metadata


def run(connection: Connection) -> None:
    """Run the migrations on an open connection."""
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
    with context.begin_transaction():
        context.run_migrations()


async def run_from_settings() -> None:
    """Run the migrations on the configured database."""
    engine = create_engine(Settings())
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_from_settings())
