"""Health: is the database there, and how is the model; asked for real, but never with a paid call."""

import asyncio
from dataclasses import dataclass

from loguru import logger
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.base import ModelClient, ModelHealth
from app.database.replica import Replica
from app.database.tables.request_log import RequestLog
from app.database.transactions import read
from app.errors import AppError

DATABASE_CHECK_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Health:
    """What a load balancer and a person want to know."""

    database_connected: bool
    model: ModelHealth
    # None where there is none.
    replica_connected: bool | None


class HealthService:
    """Checks what the service stands on."""

    def __init__(self, engine: AsyncEngine, model_client: ModelClient, replica: Replica | None = None) -> None:
        self._engine = engine
        self._model_client = model_client
        self._replica = replica

    async def check(self) -> Health:
        """Check the database, its replica and the model side by side; raises nothing."""
        connected, model, replica = await asyncio.gather(
            self._database_answers(), self._model_client.health(), self._replica_answers()
        )
        return Health(database_connected=connected, model=model, replica_connected=replica)

    async def _replica_answers(self) -> bool | None:
        return None if self._replica is None else await self._replica.is_there()

    async def _database_answers(self) -> bool:
        async def select_from_table(connection: AsyncConnection) -> None:
            # A table of ours, so that a database without our schema does not pass for a healthy one.
            await connection.execute(select(RequestLog.id).limit(1))

        try:
            async with asyncio.timeout(DATABASE_CHECK_TIMEOUT_SECONDS):
                await read(self._engine, select_from_table)
        except (AppError, SQLAlchemyError, TimeoutError) as error:
            logger.warning("health: the database does not answer ({})", type(error).__name__)
            return False
        return True
