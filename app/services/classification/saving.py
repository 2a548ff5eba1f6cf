"""A paid answer enters the shared cache: at once, or from the spool when the database is back.

The first valid answer of a photo stays, whichever process brings it; only a provisional one is replaced, unless the
local model is the configured one. So an answer may be stored again, also after its COMMIT was not answered: the entry
or the calls are there then, and nothing is counted twice.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.base import LOCAL_MODEL_PREFIX, ModelResult
from app.clients.errors import ModelTimeout
from app.clock import utc_now
from app.database.heartbeat import Heartbeat
from app.database.pipeline import DuplicateRowError, run
from app.database.statements import Statement, execute
from app.database.transactions import write
from app.errors import DatabaseUnavailable, ServerBusy
from app.services.cache.aliases import NEVER_REPEATED, detach_photo
from app.services.cache.entry import CachedResult, entry_of
from app.services.cache.rows import insert_entry, insert_translations, replace_provisional
from app.services.cache.service import CacheService
from app.services.near_duplicates.rows import insert_hash
from app.services.request_log.rollups import Rollups
from app.services.spending.bill import Bill
from app.services.spending.service import Spending
from app.services.spending.settlement import Settlement
from app.services.spool.service import Kind, Spool

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class PaidResult:
    """A model's answer, and what belongs into the transaction that stores it.

    `response` is what the model said, `owner` the process whose lease ends with it. By `perceptual_hash` similar photos
    find the entry later; None where the photo has none, or is an identity document.
    """

    image_hash: str
    entry: CachedResult
    response: dict[str, Any]
    photo_format: str
    answered_at: datetime
    settlement: Settlement
    owner: str
    perceptual_hash: int | None = None

    @property
    def is_provisional(self) -> bool:
        """Whether any other model's answer replaces it."""
        return self.entry.model.startswith(LOCAL_MODEL_PREFIX)


_SPOOLED = TypeAdapter(PaidResult)


class ResultSaving:
    """Stores paid answers; `on_released` is told of the photo whose lease has ended with an answer from the spool."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        heartbeat: Heartbeat,
        cache: CacheService,
        rollups: Rollups,
        spending: Spending,
        spool: Spool,
        on_released: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._heartbeat = heartbeat
        self._cache = cache
        self._rollups = rollups
        self._spending = spending
        self._spool = spool
        self._on_released = on_released
        # Photos of this process whose answer is in the spool. It beats until that is stored: so their leases count, and
        # no other instance asks again.
        self.spooled: dict[str, ExitStack] = {}
        spool.on_replay(Kind.RESULT, self._replay)

    async def save(
        self,
        image_hash: str,
        result: ModelResult,
        *,
        model: str,
        photo_format: str,
        bill: Bill,
        perceptual_hash: int | None = None,
    ) -> tuple[CachedResult, bool]:
        """Store an answer with its calls, or keep it in the spool.

        Returns:
            The entry that counts from now on, and whether it is stored and the lease of the photo released.

        Raises:
            DatabaseUnavailable: neither the database nor the spool takes it.
        """
        paid = PaidResult(
            image_hash=image_hash,
            entry=entry_of(result, model, bill.cost_micros),
            response=result.response,
            photo_format=photo_format,
            answered_at=utc_now(),
            settlement=bill.amount(),
            owner=self._heartbeat.process_id,
            perceptual_hash=None if result.category is NEVER_REPEATED else perceptual_hash,
        )
        try:
            saved = await self._store(paid)
        except (DatabaseUnavailable, ServerBusy):
            await self._keep_in_spool(paid)
            self._spending.settled(bill)
            return paid.entry, False
        self._spending.settled(bill)
        return saved, True

    async def wait_for_spooled(self, image_hash: str, deadline: float) -> None:
        """Wait until an answer for this photo that any process of this instance has in its spool is stored.

        Args:
            image_hash: the photo.
            deadline: `time.monotonic()` at which waiting ends.

        Raises:
            ModelTimeout: the deadline has passed.
            DatabaseUnavailable, ServerBusy: it cannot be stored for now.
        """
        while await self._spool.holds(image_hash):
            if time.monotonic() > deadline:
                raise ModelTimeout
            # Fails where the database takes nothing, so that what is in the spool cannot be stored either.
            await self._heartbeat.write([self._cache.select([image_hash])])
            await asyncio.sleep(POLL_SECONDS)

    async def _keep_in_spool(self, paid: PaidResult) -> None:
        # Before the entry is there: it may be stored at once.
        self.spooled[paid.image_hash] = beating = ExitStack()
        beating.enter_context(self._heartbeat.hold())
        try:
            await self._spool.append(Kind.RESULT, _SPOOLED.dump_json(paid))
        except BaseException:
            self._end_beating(paid.image_hash)
            raise
        if paid.image_hash in self.spooled:
            self._cache.keep_unsaved(paid.image_hash, paid.entry, is_provisional=paid.is_provisional)

    def _end_beating(self, image_hash: str) -> None:
        if image_hash in self.spooled:
            self.spooled.pop(image_hash).close()

    async def _store(self, paid: PaidResult, *, quietly: bool = False) -> CachedResult:
        release = lease_deletion(paid.image_hash, paid.owner)
        photo = self._rollups.photo_added(
            model=paid.entry.model,
            photo_format=paid.photo_format,
            confidence=paid.entry.confidence,
            answered_at=paid.answered_at,
        )
        try:
            await run(
                self._engine,
                [
                    insert_entry(paid.image_hash, paid.entry, paid.response, paid.answered_at),
                    *insert_translations(paid.image_hash, paid.entry),
                    self._rollups.entry_added(),
                    *([] if paid.perceptual_hash is None else [insert_hash(paid.image_hash, paid.perceptual_hash)]),
                    photo,
                    *self._spending.statements_of(paid.settlement),
                    release,
                ],
                writes=True,
                quietly=quietly,
            )
        except DuplicateRowError:
            # The entry of another process; or our own, if a connection was lost during COMMIT.
            return await self._store_second(paid, release)
        if self._cache.accepts_provisional or not paid.is_provisional:
            await self._cache.keep({paid.image_hash: paid.entry}, are_provisional=paid.is_provisional)
        return paid.entry

    async def _store_second(self, paid: PaidResult, release: Statement) -> CachedResult:
        async def replace_and_release(connection: AsyncConnection) -> None:
            is_replaced = await replace_provisional(
                connection,
                paid.image_hash,
                paid.entry,
                paid.response,
                accepts_provisional=self._cache.accepts_provisional,
            )
            if is_replaced:
                await detach_photo(connection, paid.image_hash)
            await execute(connection, release)

        await self._spending.write_down(paid.settlement)
        await write(self._engine, replace_and_release)
        (rows,) = await run(self._engine, [self._cache.select([paid.image_hash])], writes=False)
        return (await self._cache.keep_found(rows)).get(paid.image_hash, paid.entry)

    async def _replay(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            paid = _SPOOLED.validate_json(payload)
            unnamed = replace(paid, settlement=await self._spending.unnamed(paid.settlement))
            await self._store(unnamed, quietly=True)
            if paid.owner == self._heartbeat.process_id:
                self._end_beating(paid.image_hash)
                self._on_released(paid.image_hash)


def lease_deletion(image_hash: str, owner: str) -> Statement:
    """Return what ends the lease of a photo, if that process owns it."""
    return Statement("DELETE FROM model_call_lease WHERE image_hash = %s AND owner = %s", (image_hash, owner))
