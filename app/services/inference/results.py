"""What models said of people's pictures, kept per account. A result that is stored once is not stored again.

That holds for a transaction whose outcome a lost connection leaves open, by the id of the request, and for a task that
runs a second time, by the unique key on its id.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from loguru import logger
from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Row, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.categories import Category
from app.clients.base import ModelResult
from app.clients.errors import ModelRefused
from app.clients.metering import CallOutcome
from app.database.tables.batches import ModelBatch, ModelBatchItem
from app.database.tables.inference import InferenceResult
from app.database.transactions import read, write
from app.errors import ImageNotFound, ResultNotFound
from app.language.accept import Language
from app.services.cache.entry import CachedResult
from app.services.photos import Prepaid
from app.services.spool.service import Kind, Spool

# What belongs to the transaction that stores a result, whose id it gets; it undoes all by raising.
OnSaved = Callable[[AsyncConnection, int], Awaitable[None]]

DESCRIPTION_MAX_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class Finding:
    """What a model said of a picture; `model_name` is what was asked for, `model` what has answered.

    `cost_micros` is what the calls that made it cost, in millionths of CURRENCY, also where this request made none.
    """

    image_id: int
    task_id: str | None
    model_name: str
    model: str
    category: Category
    confidence: float
    description: str | None
    from_cache: bool
    processing_time_ms: int
    request_id: str
    created_at: datetime
    cost_micros: int


@dataclass(frozen=True, slots=True)
class Inference(Finding):
    """The same, once it is stored."""

    id: int


@dataclass(frozen=True, slots=True)
class _Spooled:
    account_id: int
    image_hash: str
    finding: Finding


_SPOOLED = TypeAdapter(_Spooled)
_BATCH_ANSWER = TypeAdapter(ModelResult)

_COLUMNS = (
    InferenceResult.image_id,
    InferenceResult.task_id,
    InferenceResult.model_name,
    InferenceResult.model,
    InferenceResult.category,
    InferenceResult.confidence,
    InferenceResult.description,
    InferenceResult.from_cache,
    InferenceResult.processing_time_ms,
    InferenceResult.request_id,
    InferenceResult.created_at,
    InferenceResult.cost_micros,
    InferenceResult.id,
)


class InferenceResults:
    """Reads and writes `inference_result`."""

    def __init__(self, engine: AsyncEngine, spool: Spool) -> None:
        self._engine = engine
        self._spool = spool
        spool.on_replay(Kind.FINDING, self._replay)

    async def store(
        self, account_id: int, image_hash: str, finding: Finding, on_saved: OnSaved | None = None
    ) -> Inference:
        """Store a finding, and return it; what the same task has stored before wins.

        Raises:
            ImageNotFound: the picture or the account was deleted meanwhile.
            Exception: `on_saved` raised it; nothing is stored.
        """
        row = InferenceResult
        values: dict[str, Any] = asdict(finding) | {
            "user_id": account_id,
            "image_hash": image_hash,
            "category": finding.category.value,
            "from_cache": int(finding.from_cache),
            "model": finding.model,
            "description": finding.description and finding.description[:DESCRIPTION_MAX_LENGTH],
        }
        is_this_one = row.image_id == finding.image_id, row.user_id == account_id, row.request_id == finding.request_id

        async def insert_result(connection: AsyncConnection) -> Inference:
            is_new = False
            # It may be there from the first try, whose connection was lost during COMMIT.
            if await connection.scalar(select(row.id).where(*is_this_one).limit(1)) is None:
                await connection.execute(insert(row).values(**values))
                is_new = True
            inference = _inference((await connection.execute(select(*_COLUMNS).where(*is_this_one))).one())
            if is_new and on_saved is not None:
                await on_saved(connection, inference.id)
            return inference

        try:
            return await write(self._engine, insert_result)
        except IntegrityError:
            stored = None if finding.task_id is None else await self.of_task(account_id, finding.task_id)
            if stored is None:
                raise ImageNotFound from None
            return stored

    async def keep_in_spool(self, account_id: int, image_hash: str, finding: Finding) -> None:
        """Keep a finding that was paid for on disk until the database takes it; it must not name a task.

        Raises:
            DatabaseUnavailable: the spool does not take it.
        """
        await self._spool.append(Kind.FINDING, _SPOOLED.dump_json(_Spooled(account_id, image_hash, finding)))

    async def _replay(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            spooled = _SPOOLED.validate_json(payload)
            try:
                await self.store(spooled.account_id, spooled.image_hash, spooled.finding)
            except ImageNotFound:
                logger.info("a result was not stored, since its image or account was deleted meanwhile")

    async def get(self, account_id: int, result_id: int) -> Inference:
        """Return one result of this account.

        Raises:
            ResultNotFound: it has no such result.
        """
        found = await self._select_one(account_id, InferenceResult.id == result_id)
        if found is None:
            raise ResultNotFound
        return found

    async def latest(self, image_hash: str, models: Collection[str], *, account_id: int | None) -> CachedResult | None:
        """Return what `models` have said last of a picture: to one account, or (None) to any; None if nothing."""
        row = InferenceResult
        conditions = [row.image_hash == image_hash, row.model.in_(models)]
        if account_id is not None:
            conditions.append(row.user_id == account_id)
        columns = row.model, row.category, row.confidence, row.description, row.cost_micros
        query = select(*columns).where(*conditions).order_by(row.id.desc()).limit(1)

        async def select_latest(connection: AsyncConnection) -> CachedResult | None:
            found = (await connection.execute(query)).one_or_none()
            # MySQL takes names for equal that differ in case.
            if found is None or found.model not in models:
                return None
            confidence = float(found.confidence)
            return CachedResult(Category(found.category), confidence, found.description, found.model, found.cost_micros)

        return await read(self._engine, select_latest)

    async def of_task(self, account_id: int, task_id: str) -> Inference | None:
        """Return what a task of this account has stored, or None."""
        return await self._select_one(account_id, InferenceResult.task_id == task_id)

    async def of_ids(self, account_id: int, result_ids: Collection[int]) -> dict[int, Inference]:
        """Return those of some results that this account has, by their ids."""
        query = select(*_COLUMNS).where(InferenceResult.user_id == account_id, InferenceResult.id.in_(result_ids))

        async def select_rows(connection: AsyncConnection) -> dict[int, Inference]:
            return {row.id: _inference(row) for row in await connection.execute(query)}

        return await read(self._engine, select_rows) if result_ids else {}

    async def of_batch(self, item_id: str, model: str) -> Prepaid | None:
        """Return what a batch of a model has brought for one of its photos: an answer or a refusal; None if neither."""
        item = ModelBatchItem
        columns = item.outcome, item.answer, item.cost_micros, item.language
        query = select(*columns).join(ModelBatch, ModelBatch.id == item.batch_id)
        query = query.where(item.id == item_id, ModelBatch.model == model)

        async def select_item(connection: AsyncConnection) -> Prepaid | None:
            row = (await connection.execute(query)).one_or_none()
            if row is not None and row.outcome == CallOutcome.REFUSED.value:
                return Prepaid(ModelRefused(), row.cost_micros)
            if row is None or row.answer is None:
                return None
            answer = _BATCH_ANSWER.validate_python(row.answer)
            language = None if row.language is None else Language(row.language)
            return Prepaid(replace(answer, language=language), row.cost_micros)

        return await read(self._engine, select_item)

    async def page(
        self, account_id: int, *, skip: int, limit: int, image_id: int | None = None
    ) -> tuple[Sequence[Inference], int]:
        """Return results of this account (of one picture), newest first, and how many there are in all."""
        conditions = [InferenceResult.user_id == account_id]
        if image_id is not None:
            conditions.append(InferenceResult.image_id == image_id)
        count = select(func.count()).select_from(InferenceResult).where(*conditions)
        page = select(*_COLUMNS).where(*conditions).order_by(InferenceResult.id.desc()).offset(skip).limit(limit)

        async def select_page(connection: AsyncConnection) -> tuple[list[Inference], int]:
            total = await connection.scalar(count)
            return [_inference(row) for row in await connection.execute(page)], total or 0

        return await read(self._engine, select_page)

    async def _select_one(self, account_id: int, condition: ColumnElement[bool]) -> Inference | None:
        query = select(*_COLUMNS).where(InferenceResult.user_id == account_id, condition)

        async def select_row(connection: AsyncConnection) -> Inference | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _inference(row)

        return await read(self._engine, select_row)


def _inference(row: Row[*tuple[Any, ...]]) -> Inference:
    values = row._asdict() | {
        "category": Category(row.category),
        "confidence": float(row.confidence),
        "from_cache": bool(row.from_cache),
    }
    return Inference(**values)
