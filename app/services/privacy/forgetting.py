"""Forgetting who asked: rows stay where a sum or a bill needs them, without a name, and go where they are only a name.

Everything happens in short transactions of a few rows, so that requests are logged in between. All of it may run again:
what a request that is under way writes afterwards is forgotten by the next run. What waits in a spool is written
without the name (app/services/request_log/forgotten.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial

from loguru import logger
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.retention import delete_in_batches
from app.database.tables.accounts import User
from app.database.tables.audit import AuditEntry
from app.database.tables.request_log import RequestLog
from app.database.tables.spending import BudgetUse, ModelCallRow
from app.database.tables.statistics import UserTotals, Visitor
from app.database.transactions import read, write
from app.services.feedback.voter import hash_of_user
from app.services.feedback.votes import delete_votes_of
from app.services.idempotency.rows import delete_of_user
from app.services.request_log.forgotten import note_forgotten
from app.services.request_log.record import ACCOUNT_PREFIX, account_of_user_id
from app.services.request_log.rollups import ADDRESS, USER

BATCH_ROWS = 1000
PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows no longer name a user: of the request log, of the days it was seen on, and of the ledger."""

    log_rows: int = 0
    days: int = 0
    model_calls: int = 0


class Forgetting:
    """Makes a user nameless in everything that outlives a request; totals of the past stay as they are."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def forget(self, user_id: str) -> Forgotten:
        """Forget a device, a user of an app, or an account (`account:ID`).

        Raises:
            DatabaseUnavailable, ServerBusy: what was forgotten by then stays so; ask again.
        """
        # First: what waits in a spool is written without the name from now on.
        await write(self._engine, partial(note_forgotten, user_id=user_id))
        log_rows = await self._in_batches(partial(_unname_log, user_id=user_id))
        calls = await self._in_batches(partial(_unname_calls, is_theirs=ModelCallRow.user_id == user_id))
        if (account_id := account_of_user_id(user_id)) is not None:
            is_theirs = ModelCallRow.account_id == account_id
            calls += await self._in_batches(partial(_unname_calls, is_theirs=is_theirs))
        else:
            # That an account logged in or was deleted is what the audit log is for; its name is a number.
            await self._in_batches(partial(_unname_audit, user_id=user_id))

        async def delete_names(connection: AsyncConnection) -> int:
            days = await _delete_visits(connection, USER, [user_id])
            await connection.execute(delete(UserTotals).where(UserTotals.user_id == user_id))
            scopes = [f"user:{user_id}", f"device:{user_id}"]
            await connection.execute(delete(BudgetUse).where(BudgetUse.scope.in_(scopes)))
            return days

        # Of no use to sums: they go as a whole.
        await delete_in_batches(self._engine, partial(delete_of_user, user_id=user_id))
        user_hash = hash_of_user(user_id)
        await delete_in_batches(self._engine, lambda connection, rows: delete_votes_of(connection, user_hash, rows))
        forgotten = Forgotten(log_rows, await write(self._engine, delete_names), calls)
        # Without the id, which would stay in the log file.
        logger.info("a user was forgotten: {} log rows, {} model calls", forgotten.log_rows, forgotten.model_calls)
        return forgotten

    async def forget_deleted_accounts(self) -> int:
        """Forget accounts that are gone, of which a request that was under way has written since; return how many."""
        forgotten = 0
        after = ACCOUNT_PREFIX
        while names := await read(self._engine, partial(_named_accounts, after=after)):
            after = names[-1]
            ids = {name: account_id for name in names if (account_id := account_of_user_id(name)) is not None}
            there = await self._existing(ids.values())
            for name, account_id in ids.items():
                if account_id not in there:
                    await self.forget(name)
                    forgotten += 1
        return forgotten

    async def _existing(self, ids: Collection[int]) -> set[int]:
        async def select_ids(connection: AsyncConnection) -> set[int]:
            return set(await connection.scalars(select(User.id).where(User.id.in_(ids))))

        return await read(self._engine, select_ids)

    async def _in_batches(self, batch: Callable[..., Awaitable[tuple[int, int]]]) -> int:
        """Run `batch` after the id that the one before has ended at, until it finds nothing; return how many rows."""
        rows, after = 0, 0
        while True:
            changed, last = await write(self._engine, partial(batch, after=after))
            if last == after:
                return rows
            rows, after = rows + changed, last
            await asyncio.sleep(PAUSE_SECONDS)


async def _unname_log(connection: AsyncConnection, user_id: str, after: int) -> tuple[int, int]:
    """Take user and address out of the next log rows of a user; return how many, and the last id that was seen."""
    row = RequestLog
    query = select(row.id, row.user_id, row.ip_address).where(row.user_id == user_id, row.id > after)
    found = (await connection.execute(query.order_by(row.id).limit(BATCH_ROWS))).all()
    if not found:
        return 0, after
    # The collation of a column may take other names for equal.
    theirs = [each for each in found if each.user_id == user_id]
    if theirs:
        ids = [each.id for each in theirs]
        await connection.execute(update(row).where(row.id.in_(ids)).values(user_id=None, ip_address=None))
        addresses = {each.ip_address for each in theirs if each.ip_address is not None}
        others = set(await connection.scalars(select(row.ip_address).where(row.ip_address.in_(addresses)).distinct()))
        # An address that other rows have as well is not theirs alone.
        await _delete_visits(connection, ADDRESS, addresses - others)
    return len(theirs), found[-1].id


async def _unname_calls(connection: AsyncConnection, is_theirs: ColumnElement[bool], after: int) -> tuple[int, int]:
    """Take who paid out of the next rows of the ledger; what was paid stays. Returns as `_unname_log`."""
    row = ModelCallRow
    query = select(row.id).where(is_theirs, row.id > after).order_by(row.id).limit(BATCH_ROWS)
    ids = (await connection.scalars(query)).all()
    if not ids:
        return 0, after
    no_caller = {"user_id": None, "account_id": None, "api_key_id": None}
    await connection.execute(update(row).where(row.id.in_(ids)).values(**no_caller))
    return len(ids), ids[-1]


async def _unname_audit(connection: AsyncConnection, user_id: str, after: int) -> tuple[int, int]:
    """Take a device out of the next events that were about it. Returns as `_unname_log`."""
    row = AuditEntry
    query = select(row.id, row.subject).where(row.subject == user_id, row.id > after)
    found = (await connection.execute(query.order_by(row.id).limit(BATCH_ROWS))).all()
    if not found:
        return 0, after
    theirs = [each.id for each in found if each.subject == user_id]
    await connection.execute(update(row).where(row.id.in_(theirs)).values(subject=None))
    return len(theirs), found[-1].id


async def _delete_visits(connection: AsyncConnection, kind: str, visitors: Collection[str]) -> int:
    """Delete that visitors were seen; how many there were on a day stays known."""
    if not visitors:
        return 0
    query = select(Visitor.day, Visitor.visitor).where(Visitor.visitor.in_(visitors), Visitor.kind == kind)
    found = [each for each in (await connection.execute(query)).all() if each.visitor in visitors]
    for day, visitor in found:
        # By its key, which locks no other row.
        is_it = Visitor.day == day, Visitor.kind == kind, Visitor.visitor == visitor
        await connection.execute(delete(Visitor).where(*is_it))
    return len(found)


async def _named_accounts(connection: AsyncConnection, after: str) -> list[str]:
    """Return the next accounts that the sums of users name."""
    name = UserTotals.user_id
    query = select(name).where(name.startswith(ACCOUNT_PREFIX, autoescape=True), name > after)
    return list((await connection.scalars(query.order_by(name).limit(BATCH_ROWS))).all())
