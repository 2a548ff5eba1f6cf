"""One model call per new photo: the SQL of finding a result, of claiming the right to call, and of saving the result.

The right to call is a row in `model_call_lease` that only one process can insert, if the limits of the caller have
room. It goes with the transaction that saves the result, or as soon as the call fails; what the call has cost is
written in the same transaction. A process that finds the row of another waits until it is gone; if the
owner is stalled (app/database/heartbeat.py), a waiter deletes the row, and all that wait race for it again.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from loguru import logger
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.base import ModelResult
from app.clients.errors import ModelTimeout
from app.clients.metering import CallMeter
from app.database.heartbeat import Heartbeat
from app.database.pipeline import Rows, run
from app.database.statements import Statement, insert_ignore
from app.database.tables.classification import ModelCallLease
from app.database.transactions import read
from app.errors import AppError
from app.observability import metrics
from app.observability.tracing import span
from app.runtime.background import OutageLog, cancel, every, spawn
from app.runtime.keyed_lock import KeyedLock
from app.services.cache.entry import CachedResult
from app.services.cache.service import CacheService
from app.services.classification.outcomes import Claimed, Found, Held, Refused
from app.services.classification.saving import ResultSaving, lease_deletion
from app.services.request_log.rollups import Rollups
from app.services.spending.bill import Bill
from app.services.spending.limits import Budget, has_room, photo_counted, reached, reservation_raised
from app.services.spending.service import Spending
from app.services.spool.service import Spool

POLL_FIRST_SECONDS = 0.02
POLL_MAX_SECONDS = 0.2
ORPHANS_SECONDS = 2.0


class ClassificationStore:
    """Finds, claims and saves for this process; hashes are 64 lower-case hex digits.

    Within the process one task at a time works on the same hash: `turn` sees to it.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        heartbeat: Heartbeat,
        cache: CacheService,
        rollups: Rollups,
        spending: Spending,
        spool: Spool,
    ) -> None:
        self._engine = engine
        self._spending = spending
        self._heartbeat = heartbeat
        self._cache = cache
        # What this process owns or is about to claim; any other row in its name is an orphan.
        self._claimed: set[str] = set()
        self._saving = ResultSaving(
            engine,
            heartbeat=heartbeat,
            cache=cache,
            rollups=rollups,
            spending=spending,
            spool=spool,
            on_released=self._claimed.discard,
        )
        self._locks = KeyedLock()
        self._deleting_orphans = asyncio.Lock()
        self._orphans_loop: asyncio.Task[None] | None = None
        self._outage = OutageLog("leases cannot be released", recovered="leases are released again")

        row = ModelCallLease
        self._insert = (
            f"{insert_ignore(engine.dialect.name)} model_call_lease"  # noqa: S608 - constants
            " (image_hash, owner, reserved_micros, api_key_id) SELECT %s, %s, %s, %s FROM (SELECT 1 AS one) AS one"
        )
        self._select_lease = select(row.owner, heartbeat.is_stalled(row.owner).label("is_stalled"))
        self._select_orphans = select(row.image_hash, row.owner).where(
            or_(row.owner == heartbeat.process_id, heartbeat.is_stalled(row.owner))
        )

    @asynccontextmanager
    async def turn(self, image_hash: str, deadline: float, bill: Bill) -> AsyncIterator[CachedResult | None]:
        """Give the result of a photo, or None: then it is this process' turn to ask the model, within the block.

        Waits for another process, or another task of this one, that asks already. What the block does not
        `save_and_release` or have `released_with` is released at its end, and what was spent is written down.

        Args:
            image_hash: the photo.
            deadline: `time.monotonic()` at which waiting ends.
            bill: who pays; its meter is for the model.

        Raises:
            LimitReached: the caller may not ask for a new photo now.
            ModelTimeout: the deadline has passed.
            DatabaseUnavailable, ServerBusy: as `pipeline.run`.
        """
        bill.meter = CallMeter(partial(self._reserve_more, image_hash, bill))
        with self._heartbeat.hold():
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(
                        self._locks.held(image_hash, timeout_seconds=deadline - time.monotonic())
                    )
                except TimeoutError:
                    raise ModelTimeout from None
                await self._saving.wait_for_spooled(image_hash, deadline)
                while True:
                    with span("cache.look_up_and_lease"):
                        outcome = await self.claim_or_find(image_hash, bill)
                    if not isinstance(outcome, Held):
                        break
                    with span("cache.wait_for_another"):
                        await self.wait(image_hash, deadline)
                if isinstance(outcome, Refused):
                    raise outcome.error
                try:
                    yield outcome.entry if isinstance(outcome, Found) else None
                finally:
                    await self.release(image_hash, bill)

    async def claim_or_find(self, image_hash: str, bill: Bill) -> Found | Claimed | Held | Refused:
        """Find the result of a photo, else claim the right to ask the model for it, in one trip to the server.

        Raises:
            DatabaseUnavailable, ServerBusy: as `pipeline.run`.
        """
        self._claimed.add(image_hash)
        if self._orphans_loop is None:
            loop = every(ORPHANS_SECONDS, self._delete_orphans, outage=self._outage)
            self._orphans_loop = spawn(loop, name="orphaned-leases")
        is_claimed = False
        try:
            async with self._deleting_orphans:
                # A deletion that is under way may be that of a row of this very photo.
                pass
            outcome = await self._claim_or_find(image_hash, bill)
            is_claimed = isinstance(outcome, Claimed)
            return outcome
        finally:
            if not is_claimed:
                self._claimed.discard(image_hash)

    async def wait(self, image_hash: str, deadline: float) -> None:
        """Wait until it makes sense to try `claim_or_find` again, since the lease of another process is gone.

        Args:
            image_hash: the photo.
            deadline: `time.monotonic()` at which waiting ends.

        Raises:
            ModelTimeout: the deadline has passed.
            DatabaseUnavailable, ServerBusy: as `read`.
        """
        query = self._select_lease.where(ModelCallLease.image_hash == image_hash)

        async def find(connection: AsyncConnection) -> tuple[str, bool] | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else (row.owner, bool(row.is_stalled))

        pause = POLL_FIRST_SECONDS
        while True:
            if time.monotonic() > deadline:
                raise ModelTimeout
            await asyncio.sleep(random.uniform(0.5, 1) * pause)
            lease = await read(self._engine, find)
            if lease is None:
                return
            owner, is_stalled = lease
            if is_stalled and self._heartbeat.can_judge:
                await self._delete([(image_hash, owner)])
                logger.warning("the process that asked the model about photo {} is stalled", image_hash[:12])
                return
            pause = min(1.5 * pause, POLL_MAX_SECONDS)

    async def save_and_release(
        self,
        image_hash: str,
        result: ModelResult,
        *,
        model: str,
        photo_format: str,
        bill: Bill,
        perceptual_hash: int | None = None,
    ) -> CachedResult:
        """Store a model's answer and what it cost, release the lease, and return the entry that counts from now on.

        The database settles a race, as with an owner that was taken for stalled: the first result stays, and the others
        get it. Where the database is away, the result goes into the spool.

        Raises:
            DatabaseUnavailable: neither takes it.
        """
        saved, is_released = await self._saving.save(
            image_hash,
            result,
            model=model,
            photo_format=photo_format,
            bill=bill,
            perceptual_hash=perceptual_hash,
        )
        if is_released:
            self._claimed.discard(image_hash)
        return saved

    async def wait_for_spooled(self, image_hash: str, deadline: float) -> None:
        """Wait until an answer for this photo is stored that waits in a spool; as `ResultSaving.wait_for_spooled`."""
        await self._saving.wait_for_spooled(image_hash, deadline)

    async def turn_to(self, image_hash: str, bill: Bill, other: Bill) -> bool:
        """Make the calls from now on those of `other`'s model; say whether the next can be paid. Raises as `run`."""
        bill.turn_to(other)
        return await self._reserve(image_hash, bill)

    def release_statements(self, image_hash: str, bill: Bill) -> list[Statement]:
        """Return what belongs to a transaction that keeps the answer elsewhere than in the cache.

        They write down what it cost, and release the lease; `released_with` follows the commit.
        """
        return [*bill.settlement(), lease_deletion(image_hash, self._heartbeat.process_id)]

    def released_with(self, image_hash: str, bill: Bill) -> None:
        """Take note that the `release_statements` are committed."""
        self._spending.settled(bill)
        self._claimed.discard(image_hash)

    async def release(self, image_hash: str, bill: Bill) -> None:
        """Delete the lease, if this process owns it, and write down what was spent.

        If the database fails, it is done later; nothing is raised.
        """
        if image_hash not in self._claimed or image_hash in self._saving.spooled:
            return
        try:
            with self._outage.guard():
                lease = lease_deletion(image_hash, self._heartbeat.process_id)
                await self._spending.settle(bill, lease)
        finally:
            self._claimed.discard(image_hash)

    async def close(self) -> None:
        """Release what is left, apart from leases whose answer is in the spool."""
        if self._orphans_loop is None:
            return
        await cancel(self._orphans_loop)
        self._claimed.intersection_update(self._saving.spooled)
        with self._outage.guard():
            await self._delete_orphans()

    async def _claim_or_find(self, image_hash: str, bill: Bill) -> Found | Claimed | Held | Refused:
        look_up = self._cache.select([image_hash])
        process_id = self._heartbeat.process_id
        text = f"{self._insert} WHERE NOT EXISTS ({look_up.text})"
        lease = image_hash, process_id, bill.reserve_micros, bill.api_key_id
        parameters: list[object] = [*lease, *look_up.parameters]
        for limit in bill.limits:
            condition, values = has_room(limit, bill.reserve_micros)
            text += f" AND {condition}"
            parameters += values
        results = await self._heartbeat.write(
            [
                *self._spending.openings(bill.limits),
                Statement(text, parameters),
                *photo_counted(self._engine.dialect.name, bill.limits),
                # Before what follows: a limit without room is none that this transaction has filled.
                *([reached(bill.limits, bill.reserve_micros)] if bill.limits else []),
                # The row may be ours from before: a connection lost during COMMIT makes all of this run again.
                Statement("SELECT owner FROM model_call_lease WHERE image_hash = %s", (image_hash,)),
                # The owner before us may have stored a result meanwhile.
                look_up,
            ]
        )
        self._spending.opened(bill.limits)
        owners, rows = results[-2:]
        entry = (await self._cache.keep_found(rows)).get(image_hash)
        if entry is not None:
            metrics.count(metrics.LOOKUPS_IN_DATABASE)
            return Found(entry)
        if owners:
            return Claimed() if owners[0][0] == process_id else Held()
        scopes = {scope for (scope,) in results[-3]} if bill.limits else set()
        # Without any, the owner has released its lease just now.
        return Refused(self._spending.refusal(bill, scopes)) if scopes else Held()

    async def _reserve_more(self, image_hash: str, bill: Bill, calls: int) -> bool:
        """Do as `_reserve` before a model is asked again; a database that is away has no room either."""
        try:
            return await self._reserve(image_hash, bill)
        except AppError:
            return False

    async def _reserve(self, image_hash: str, bill: Bill) -> bool:
        """Reserve for another call for the photo, whose lease this process owns; say whether the budgets have room.

        The bill knows what the calls before have cost. Raises as `pipeline.run`.
        """
        budgets = [limit for limit in bill.limits if isinstance(limit, Budget)]
        if not budgets or bill.costs_nothing_now:
            return True
        needed = bill.reserve_micros
        raised = reservation_raised(image_hash, self._heartbeat.process_id, budgets, needed)
        check = Statement("SELECT reserved_micros FROM model_call_lease WHERE image_hash = %s", (image_hash,))
        *_, rows = await run(self._engine, [*self._spending.openings(budgets), raised, check], writes=True)
        return bool(rows) and rows[0][0] >= needed

    async def _delete_orphans(self) -> None:
        """Delete rows of this process that it knows nothing of, and rows of stalled processes.

        The former come from a claim that was given up and reached the server all the same, or from a failed release.
        """
        if not self._heartbeat.is_beating:
            # Others take this process for stalled, and do the same.
            return

        async def find(connection: AsyncConnection) -> Rows:
            return [tuple(row) for row in await connection.execute(self._select_orphans)]

        rows = await read(self._engine, find)
        can_judge = self._heartbeat.can_judge
        orphans = [
            (image_hash, owner)
            for image_hash, owner in rows
            if (image_hash not in self._claimed if owner == self._heartbeat.process_id else can_judge)
        ]
        if orphans:
            async with self._deleting_orphans:
                await self._delete(orphans)

    async def _delete(self, leases: Collection[tuple[str, str]]) -> None:
        """Delete rows of (hash, owner), and no row of an owner that has come since."""
        await run(self._engine, [lease_deletion(image_hash, owner) for image_hash, owner in leases], writes=True)
