"""All that is kept of a user, as JSON that is made while it is sent: memory holds a few rows at a time."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from app.clock import utc_now
from app.database.tables.accounts import User
from app.database.tables.audit import AuditEntry
from app.database.tables.columns import Base
from app.database.tables.feedback import FeedbackVote
from app.database.tables.idempotency import IdempotentAnswer
from app.database.tables.inference import InferenceResult, InferenceTask
from app.database.tables.library import LibraryImage
from app.database.tables.request_log import RequestLog
from app.database.tables.spending import ModelCallRow
from app.database.tables.statistics import UserTotals, Visitor
from app.database.transactions import read
from app.services.feedback.voter import hash_of_user
from app.services.request_log.record import account_of_user_id
from app.services.request_log.rollups import USER

BATCH_ROWS = 500
# No secret leaves, and nothing that means something only inside the service.
_LEFT_OUT = {
    "password_hash",
    "token_generation",
    "username_key",
    "email_key",
    "runner",
    "claim",
    "created_date",
    "fingerprint",
    "voter",
    "counted_as",
    "network",
    "user_hash",
}


@dataclass(frozen=True, slots=True)
class _Section:
    """Rows of one table, in the order of `key`, which no two of them share."""

    name: str
    table: type[Base]
    key: InstrumentedAttribute[Any]
    condition: ColumnElement[bool]


async def export(engine: AsyncEngine, user_id: str) -> AsyncIterator[bytes]:
    """Yield one JSON document: a list of rows for each table that names a device, or an account (`account:ID`).

    Raises:
        DatabaseUnavailable, ServerBusy: also in the midst of it; the document is then cut off, and no JSON.
    """
    head = f'{{"success":true,"data":{{"user_id":{json.dumps(user_id)},"exported_at":"{_text(utc_now())}"'
    for section in _sections(user_id):
        # Each section is a piece at least, so the first rows are read before anything is sent.
        separator = f'{head},"{section.name}":['
        head = ""
        async for row in _rows(engine, section, user_id):
            yield f"{separator}{row}".encode()
            separator = ","
        yield (b"]" if separator == "," else f"{separator}]".encode())
    yield b"}}"


def _sections(user_id: str) -> list[_Section]:
    is_paid: ColumnElement[bool] = ModelCallRow.user_id == user_id
    of_account: list[_Section] = []
    if (account_id := account_of_user_id(user_id)) is not None:
        is_paid = or_(is_paid, ModelCallRow.account_id == account_id)
        of_account = [
            _Section("account", User, User.id, User.id == account_id),
            _Section("images", LibraryImage, LibraryImage.id, LibraryImage.user_id == account_id),
            _Section("results", InferenceResult, InferenceResult.id, InferenceResult.user_id == account_id),
            _Section("tasks", InferenceTask, InferenceTask.id, InferenceTask.user_id == account_id),
        ]
    said = FeedbackVote.user_hash == hash_of_user(user_id)
    is_visitor = (Visitor.visitor == user_id) & (Visitor.kind == USER)
    return [
        *of_account,
        _Section("requests", RequestLog, RequestLog.id, RequestLog.user_id == user_id),
        _Section("days", Visitor, Visitor.day, is_visitor),
        _Section("totals", UserTotals, UserTotals.user_id, UserTotals.user_id == user_id),
        _Section("first_answers", IdempotentAnswer, IdempotentAnswer.key_hash, IdempotentAnswer.user_id == user_id),
        _Section("model_calls", ModelCallRow, ModelCallRow.id, is_paid),
        _Section("feedback", FeedbackVote, FeedbackVote.id, said),
        _Section("events", AuditEntry, AuditEntry.id, AuditEntry.subject == user_id),
    ]


async def _rows(engine: AsyncEngine, section: _Section, user_id: str) -> AsyncIterator[str]:
    columns = [column for column in section.table.__table__.columns if column.name not in _LEFT_OUT]
    names = {column.name for column in columns} & {"user_id", "visitor", "subject"}
    query = select(*columns).where(section.condition).order_by(section.key).limit(BATCH_ROWS)
    last: Any = None
    while True:

        async def select_batch(connection: AsyncConnection, last: Any = last) -> list[dict[str, Any]]:
            batch = query if last is None else query.where(section.key > last)
            return [dict(row) for row in (await connection.execute(batch)).mappings()]

        found = await read(engine, select_batch)
        for row in found:
            # The collation of a column may take other names for equal: they are other users.
            if any(isinstance(row[name], str) and row[name] != user_id for name in names):
                continue
            yield json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_text)
        if len(found) < BATCH_ROWS:
            return
        last = found[-1][section.key.key]


def _text(value: object) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=None).isoformat()}Z"
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
