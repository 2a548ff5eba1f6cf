"""The steps of a batch: collect photos, submit them, look whether it has ended, keep what came of it.

Each step is begun by a process that owns the batch, and ends in one transaction. Before a batch is submitted that is
noted (`submitting`): a process that finds such a batch asks the provider whether it knows it, before it submits it
again. What came of all photos, what it cost and the end of the batch are one transaction, so nothing is charged twice.
"""

import secrets
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta

from loguru import logger
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.base import ModelResult, PreparedPhoto
from app.clients.batches.base import MAX_BYTES, MAX_PHOTOS, BatchClient, BatchOutcome, request_bytes
from app.clients.errors import (
    ModelAuthenticationFailed,
    ModelError,
    ModelNotFound,
    ModelQuotaExhausted,
    ModelRateLimited,
    ModelRejectedRequest,
)
from app.clients.llm.base import LLMClient
from app.clients.metering import CallOutcome
from app.clock import utc_now
from app.database.heartbeat import Heartbeat
from app.database.statements import execute
from app.database.transactions import read, write
from app.errors import AppError
from app.observability import metrics
from app.services.batches import collecting, rows
from app.services.batches.photos import BatchPhotos
from app.services.batches.rows import Batch, BatchLostError, BatchStatus, Item
from app.services.batches.spending import BatchSpending, Cost, NoRoomError

# Between two looks at a batch: doubled each time up to this. Most batches take minutes, some hours.
POLL_MAX_SECONDS = 300
# A budget that is used up has room again after midnight.
NO_ROOM_SECONDS = 600
# A cancelled batch ends within ten minutes (https://developers.openai.com/api/docs/guides/batch).
CANCELLED_POLL_SECONDS = 30
# A submission has two minutes between two parts of it, and the provider's list may be behind.
NOT_YET_LISTED = timedelta(minutes=5)
# No request waits for the transactions that change all rows of a batch.
WRITE_TIMEOUT_SECONDS = 30.0
_RESULT = TypeAdapter(ModelResult)
# It was not submitted, and cannot be: its photos are asked about directly.
_HAS_NO_BATCHES = (ModelRejectedRequest, ModelNotFound)
# It was not submitted, and may be later.
_NOT_NOW = (ModelAuthenticationFailed, ModelQuotaExhausted, ModelRateLimited)


class BatchSteps:
    """Takes batches a step further.

    Args:
        engine: the database.
        heartbeat: of this process; held during a step.
        client: the service's model.
        batches: its provider's.
        photos: prepares them.
        spending: reserves and writes down what they cost.
        names: by which tasks may ask for the model.
        wait_seconds: how long a photo waits for others, and how long it is until the first look at a batch.
        wake: has the runners of tasks look for those that are due now; never fails.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        heartbeat: Heartbeat,
        *,
        client: LLMClient,
        batches: BatchClient,
        photos: BatchPhotos,
        spending: BatchSpending,
        names: Collection[str],
        wait_seconds: int,
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._heartbeat = heartbeat
        self._client = client
        self._batches = batches
        self._photos = photos
        self._spending = spending
        self._names = names
        self._wait_seconds = wait_seconds
        self._wake = wake

    async def collect(self) -> Batch | None:
        """Put waiting tasks into a new batch, if there are enough or the first has waited long enough."""
        waiting, first = await read(
            self._engine, lambda connection: collecting.count_waiting(connection, self._names, MAX_PHOTOS)
        )
        is_due = first is not None and utc_now() - first >= timedelta(seconds=self._wait_seconds)
        if not waiting or not (is_due or waiting >= MAX_PHOTOS):
            return None
        batch_id = secrets.token_hex(16)

        async def collect(connection: AsyncConnection) -> Batch | None:
            return await collecting.collect(
                connection,
                self._heartbeat,
                batch_id,
                limit=MAX_PHOTOS,
                provider=self._client.provider,
                model=self._client.model,
                names=self._names,
                by_account=not self._photos.inference.shares_results,
            )

        return await write(self._engine, collect, timeout_seconds=WRITE_TIMEOUT_SECONDS)

    async def take(self, batch: Batch) -> None:
        """Take the next step of a batch that this process owns, and give it back.

        Raises:
            BatchLostError: it belongs to another process by now.
            AppError: the step failed; the batch still belongs to this process.
        """
        try:
            match batch.status:
                case BatchStatus.COLLECTING:
                    await self._submit(batch)
                case BatchStatus.SUBMITTING:
                    await self._find(batch)
                case _:
                    await self._look(batch)
        except ModelError as error:
            await self._after_error(batch, error)

    async def put_off(self, batch: Batch, error: Exception) -> None:
        """Give a batch back after a step that failed, until its next look.

        One that should have ended is ended, unless it is the database or this process that cannot go on at the moment.
        """
        if batch.is_overdue and not isinstance(error, AppError):
            await self._fail(batch, AppError.code)
            return
        pause = self._pause(batch)
        await write(self._engine, lambda c: rows.change(c, batch, self._heartbeat, due_in_seconds=pause))

    async def _submit(self, batch: Batch) -> None:
        if batch.is_late:
            await self._fail(batch, "deadline")
            return
        items = {item.id: item for item in await read(self._engine, lambda c: rows.select_items(c, batch.id))}
        # Before they are prepared: what has no room would be prepared for nothing.
        room = await write(self._engine, lambda c: self._spending.room(c, len(items)))
        if items and not room:
            await self._wait_for_room(batch)
            return
        photos, left = await self._prepare(items, room)

        async def intend(connection: AsyncConnection) -> set[str]:
            await rows.wait_again(connection, batch.id, left)
            wanted = [items[each] for each in photos]
            allowed: set[str] = set()
            if wanted:
                is_repeated = batch.submitting_at is not None
                allowed = await self._spending.reserve(connection, batch.id, wanted, is_repeated=is_repeated)
            await rows.drop_items(connection, items.keys() - left - allowed)
            if not allowed:
                await rows.ask_all_directly(connection, batch.id)
            status = BatchStatus.SUBMITTING if allowed else BatchStatus.ENDED
            given_back = {} if allowed else {"due_in_seconds": 0}
            changes = {"photos": len(allowed), "submitting_at": utc_now(), **given_back}
            await rows.change(connection, batch, self._heartbeat, status=status, **changes)  # type: ignore[arg-type]  # each fits
            return allowed

        try:
            allowed = await write(self._engine, intend)
        except NoRoomError:
            await self._wait_for_room(batch)
            return
        if len(allowed) < len(items):
            self._wake()
        if not allowed:
            return
        provider_id = await self._batches.submit(batch.id, {each: photos[each] for each in sorted(allowed)})
        metrics.count(metrics.BATCH_PHOTOS.labels(batch.provider, "submitted"), len(allowed))
        logger.info("batch {} of {} photos is submitted as {}", batch.id, len(allowed), provider_id[:100])
        try:
            await self._change(batch, BatchStatus.RUNNING, self._wait_seconds, provider_batch_id=provider_id)
        except BatchLostError:
            await self._cancel_lost(batch, provider_id)
            raise

    async def _wait_for_room(self, batch: Batch) -> None:
        logger.info("batch {} waits: the budget has no room for it", batch.id)
        await self._change(batch, BatchStatus.COLLECTING, NO_ROOM_SECONDS, reserved_micros=0)

    async def _cancel_lost(self, batch: Batch, provider_id: str) -> None:
        """Cancel what was submitted by a process that had lost the batch, unless its new owner finds just that."""
        found = await read(self._engine, lambda c: rows.select_batch(c, batch.id))
        if found is None or (found.status is not BatchStatus.SUBMITTING and found.provider_batch_id != provider_id):
            logger.warning("batch {} is another process's by now: {} is cancelled", batch.id, provider_id[:100])
            await self._batches.cancel(provider_id)

    async def _prepare(self, items: Mapping[str, Item], room: int) -> tuple[dict[str, PreparedPhoto], set[str]]:
        """Return the photos that a model has to look at, `room` at most, and those that have to wait again."""
        photos: dict[str, PreparedPhoto] = {}
        left: set[str] = set()
        size = 0
        for item in items.values():
            if size >= MAX_BYTES or len(photos) >= room:
                left.add(item.id)
            elif (prepared := await self._photos.prepare(item)) is not None:
                size += request_bytes(prepared)
                photos[item.id] = prepared
        return photos, left

    async def _find(self, batch: Batch) -> None:
        """Look whether the provider knows a batch whose submission was cut off; if not, it is collected again."""
        known = await read(self._engine, lambda c: rows.known_ids(c, batch.provider))
        since = batch.submitting_at or utc_now()
        provider_id = await self._batches.find(batch.id, batch.photos, since, known)
        if provider_id is None and utc_now() - since < NOT_YET_LISTED:
            # Its submission may still be on its way, or not be in the provider's list yet.
            await self._change(batch, BatchStatus.SUBMITTING, self._pause(batch))
            return
        if provider_id is None:
            logger.info("batch {} is not known to the provider: it is submitted again", batch.id)
            await self._change(batch, BatchStatus.COLLECTING, 0, reserved_micros=0)
            return
        logger.info("batch {} was submitted as {}", batch.id, provider_id[:100])
        await self._change(batch, BatchStatus.RUNNING, 0, provider_batch_id=provider_id)

    async def _look(self, batch: Batch) -> None:
        provider_id = batch.provider_batch_id or ""
        if await self._batches.has_ended(provider_id):
            await self._keep(batch, await self._batches.results(provider_id))
            await self._delete(batch, provider_id)
            return
        if batch.is_late:
            logger.warning("batch {} is past its deadline, and cancelled", batch.id)
            await self._batches.cancel(provider_id)
            await self._change(batch, BatchStatus.RUNNING, CANCELLED_POLL_SECONDS)
            return
        await self._change(batch, BatchStatus.RUNNING, self._pause(batch))

    async def _keep(self, batch: Batch, found: list[BatchOutcome]) -> None:
        """Store what came of the photos and what it cost, end the batch, and make the tasks due."""
        outcomes = {each.custom_id: each for each in found if rows.is_item_of(batch.id, each.custom_id)}

        async def keep(connection: AsyncConnection) -> tuple[int, Cost]:
            # First: it makes sure that this is done once.
            await rows.change(
                connection, batch, self._heartbeat, status=BatchStatus.ENDED, due_in_seconds=0, reserved_micros=0
            )
            items = await rows.select_all_items(connection, batch.id)
            items |= await rows.restore_items(connection, batch.id, outcomes.keys() - items.keys())
            cost = self._spending.cost(outcomes.values(), items, batch.model)
            for statement in self._spending.statements(cost):
                await execute(connection, statement)
            kept = [_columns(outcome, cost) for outcome in outcomes.values() if outcome.custom_id in items]
            await rows.keep_outcomes(connection, kept)
            await rows.ask_all_directly(connection, batch.id)
            return len(items), cost

        photos, cost = await write(self._engine, keep, timeout_seconds=WRITE_TIMEOUT_SECONDS)
        self._spending.settled(cost)
        self._wake()
        answered = 0
        for each in outcomes.values():
            outcome = each.call.outcome if each.call is not None else CallOutcome.FAILED
            metrics.count(metrics.BATCH_PHOTOS.labels(batch.provider, outcome.value))
            answered += outcome is CallOutcome.ANSWERED
            if each.call is not None:
                self._client.count_tokens(each.call.input_tokens, each.call.output_tokens)
        logger.info("batch {} has ended: {} of {} photos are answered", batch.id, answered, photos)

    async def _delete(self, batch: Batch, provider_id: str) -> None:
        try:
            await self._batches.delete(provider_id)
        except ModelError as error:
            logger.warning("the files of batch {} cannot be deleted at the provider ({})", batch.id, error.code)

    async def _after_error(self, batch: Batch, error: ModelError) -> None:
        advice = f". {error.advice}" if error.advice else ""
        logger.warning("batch {} ({}): {}{}", batch.id, batch.status, error.code, advice)
        # One that should have ended would keep its reservation for ever.
        if (
            batch.is_overdue
            or isinstance(error, ModelNotFound)
            or (isinstance(error, _HAS_NO_BATCHES) and batch.status is BatchStatus.COLLECTING)
        ):
            await self._fail(batch, error.code)
        elif batch.status is BatchStatus.COLLECTING and isinstance(error, _NOT_NOW):
            await self._change(
                batch, BatchStatus.COLLECTING, self._pause(batch), error_code=error.code, reserved_micros=0
            )
        else:
            # Whether it was submitted is not known: that of a batch which was being submitted is looked for next.
            is_open = batch.status is BatchStatus.COLLECTING
            status = BatchStatus.SUBMITTING if is_open else batch.status
            await self._change(batch, status, self._pause(batch), error_code=error.code)

    async def _fail(self, batch: Batch, code: str) -> None:
        """End a batch that brings nothing: its photos are asked about directly."""

        async def fail(connection: AsyncConnection) -> None:
            await rows.change(
                connection,
                batch,
                self._heartbeat,
                status=BatchStatus.FAILED,
                due_in_seconds=0,
                reserved_micros=0,
                error_code=code,
            )
            await rows.ask_all_directly(connection, batch.id)

        await write(self._engine, fail)
        logger.warning("batch {} has failed ({}): its photos are asked about directly", batch.id, code)
        self._wake()

    async def _change(self, batch: Batch, status: BatchStatus, due_in_seconds: int, **values: object) -> None:
        async def change(connection: AsyncConnection) -> None:
            await rows.change(
                connection, batch, self._heartbeat, status=status, due_in_seconds=due_in_seconds, **values
            )

        await write(self._engine, change)

    def _pause(self, batch: Batch) -> int:
        return int(min(POLL_MAX_SECONDS, max(1, self._wait_seconds) * 2 ** min(batch.steps, 16)))


def _columns(outcome: BatchOutcome, cost: Cost) -> dict[str, object]:
    answer = None
    if isinstance(outcome.outcome, ModelResult):
        answer = _RESULT.dump_python(outcome.outcome, mode="json")
    return {
        "item": outcome.custom_id,
        "outcome": (CallOutcome.FAILED if outcome.call is None else outcome.call.outcome).value,
        "error_code": outcome.outcome.code if isinstance(outcome.outcome, AppError) else None,
        "answer": answer,
        "cost_micros": cost.bills[outcome.custom_id].cost_micros,
    }
