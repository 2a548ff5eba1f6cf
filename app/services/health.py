"""Health: does the database take what we write, and how is the model; asked for real, but never with a paid call."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from loguru import logger
from pymysql.err import MySQLError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.clients.health import ModelHealth
from app.database.heartbeat import Heartbeat
from app.database.pipeline import run
from app.database.replica import Replica
from app.database.statements import Statement
from app.errors import AppError

DATABASE_CHECK_TIMEOUT_SECONDS = 3.0
# A table of ours, so that a database without our schema does not pass for a healthy one.
_LOOK = Statement("SELECT id FROM request_log LIMIT 1", ())


class DatabaseState(StrEnum):
    CONNECTED = "connected"
    READ_ONLY = "read_only"
    """It answers, but takes nothing: it has become a replica, or its disk is full."""
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class Health:
    """What a load balancer and a person want to know."""

    database: DatabaseState
    model: ModelHealth
    # The model that is asked in its place; None where it is not needed, or cannot be used either.
    fallback: ModelHealth | None
    # None where there is none.
    replica_connected: bool | None


class HealthService:
    """Checks what the service stands on."""

    def __init__(
        self,
        engine: AsyncEngine,
        heartbeat: Heartbeat,
        model_client: ModelClient,
        replica: Replica | None = None,
        fallbacks: Sequence[ModelClient] = (),
        *,
        looks_first: ModelClient | None = None,
    ) -> None:
        self._engine = engine
        self._heartbeat = heartbeat
        self._model_client = model_client
        self._replica = replica
        self._fallbacks = fallbacks
        self._looks_first = looks_first

    async def check(self) -> Health:
        """Check the database, its replica and the model side by side; raises nothing."""
        database, (model, fallback), replica = await asyncio.gather(
            self._database_state(), self._models(), self._replica_answers()
        )
        return Health(database=database, model=model, fallback=fallback, replica_connected=replica)

    async def _models(self) -> tuple[ModelHealth, ModelHealth | None]:
        """Return how the service's model is, and which other one is asked while it cannot be used.

        What has to look first is told in its place while it cannot: no other is asked then.
        """
        if self._looks_first is not None:
            first = await self._looks_first.health()
            if not first.available:
                return first, None
        model = await self._model_client.health()
        if model.available:
            return model, None
        others = await asyncio.gather(*(client.health() for client in self._fallbacks))
        return model, next((other for other in others if other.available), None)

    async def _replica_answers(self) -> bool | None:
        return None if self._replica is None else await self._replica.is_there()

    async def _database_state(self) -> DatabaseState:
        takes, answers = await asyncio.gather(
            # The beat of this process, unless a second has not passed since the last: nothing cheaper is written.
            _succeeds(self._heartbeat.write([_LOOK]), "take a row"),
            _succeeds(run(self._engine, [_LOOK], writes=False), "answer"),
        )
        if not answers:
            return DatabaseState.DISCONNECTED
        return DatabaseState.CONNECTED if takes else DatabaseState.READ_ONLY


async def _succeeds(work: Awaitable[object], what: str) -> bool:
    try:
        async with asyncio.timeout(DATABASE_CHECK_TIMEOUT_SECONDS):
            await work
    except (AppError, SQLAlchemyError, MySQLError, TimeoutError) as error:
        logger.warning("health: the database does not {} ({})", what, type(error).__name__)
        return False
    return True
