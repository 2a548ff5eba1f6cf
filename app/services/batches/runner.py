"""Looks each second for batches whose next step is due, and for photos that wait for one; a step at a time."""

import random
from contextlib import ExitStack

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.heartbeat import Heartbeat
from app.database.transactions import write
from app.runtime.background import OutageLog, every
from app.services.batches.rows import Batch, BatchLostError, claim_due
from app.services.batches.steps import BatchSteps

LOOK_SECONDS = 1.0


class BatchRunner:
    """Takes the batches of all processes further, in this one."""

    def __init__(self, engine: AsyncEngine, heartbeat: Heartbeat, steps: BatchSteps) -> None:
        self._engine = engine
        self._heartbeat = heartbeat
        self._steps = steps
        self._beating = ExitStack()

    async def run(self) -> None:
        """Take steps until the task is cancelled."""
        outage = OutageLog("batches cannot be worked on", recovered="batches are worked on again")
        try:
            await every(LOOK_SECONDS * random.uniform(0.9, 1.1), self.take_steps, outage=outage)
        finally:
            self._beating.close()

    async def take_steps(self) -> None:
        """Take all steps that are due.

        Raises:
            AppError: the database, the storage or a busy machine has stopped one, which is put off.
        """
        sees_others = False
        while True:
            batch, sees_others = await self._next()
            if batch is None:
                break
            with self._heartbeat.hold():
                await self._take(batch)
        # Only a process that beats may judge those that own the others.
        self._beating.close()
        if sees_others:
            self._beating.enter_context(self._heartbeat.hold())

    async def _next(self) -> tuple[Batch | None, bool]:
        batch, sees_others = await write(
            self._engine, lambda connection: claim_due(connection, self._heartbeat), quietly=True
        )
        return batch or await self._steps.collect(), sees_others

    async def _take(self, batch: Batch) -> None:
        try:
            await self._steps.take(batch)
        except BatchLostError:
            logger.info("batch {} has been taken over", batch.id)
        except Exception as error:
            await self._steps.put_off(batch, error)
            raise
