"""One model call per new photo, whoever asks: the right to call is a row that only one process can insert.

Whoever finds the row there waits until it is gone. It goes with the transaction that saves the result, or as soon as
the call fails; if its holder dies, whoever notices deletes it, and all that wait race for it again.
"""

import asyncio
import random
import time
from contextvars import Context
from datetime import datetime

from loguru import logger
from sqlalchemy import ColumnElement, bindparam, delete, literal_column, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clients.errors import ModelTimeout
from app.database.pipeline import Rows, run
from app.database.presence import Presence
from app.database.statements import Statement, seconds_from_now
from app.database.tables.classification import ModelCallLease
from app.database.transactions import read, write
from app.errors import AppError

# Where nobody can tell whether a holder lives, its leases run out this long after it has last renewed them.
EXPIRY_SECONDS = 5
RENEW_SECONDS = 1.0
# And it must be seen so for this long: after a failover, during which nobody could renew, the living come first.
EXPIRED_FOR_SECONDS = 2.0
# A row that nobody has renewed for so long is nobody's, even if its holder lives: a packet that was given up may reach
# the server, and commit, after its process has seen that there is no row.
ABANDONED_SECONDS = 30
POLL_FIRST_SECONDS = 0.02
POLL_MAX_SECONDS = 0.2
# Rows of the dead that nobody has asked for since.
STALE_SECONDS = 3600


class LeaseService:
    """The leases of this process; hashes are 64 lower-case hex digits.

    Within the process only one task at a time may ask for the same hash.
    """

    def __init__(self, engine: AsyncEngine, presence: Presence) -> None:
        self._engine = engine
        self._presence = presence
        self._held: set[str] = set()
        # Rows that may still be in the table though we are through with them: the database failed at that moment.
        self._left_behind: set[str] = set()
        self._clearing = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._next_sweep = 0.0

        dialect = engine.dialect.name
        now: ColumnElement[datetime] = literal_column(seconds_from_now(dialect, 0))
        expiry: ColumnElement[datetime] = literal_column(seconds_from_now(dialect, EXPIRY_SECONDS))
        abandoned: ColumnElement[datetime] = literal_column(seconds_from_now(dialect, -ABANDONED_SECONDS))
        an_hour_ago: ColumnElement[datetime] = literal_column(seconds_from_now(dialect, -STALE_SECONDS))
        row = ModelCallLease
        is_one_of = row.image_hash.in_(bindparam("hashes", expanding=True))
        is_ours = row.holder == presence.holder
        self._insert = (
            f"INSERT {'OR IGNORE' if dialect == 'sqlite' else 'IGNORE'} INTO model_call_lease"  # noqa: S608 - constants
            " (image_hash, holder, witness, expires_at)"
            f" SELECT %s, %s, %s, {seconds_from_now(dialect, EXPIRY_SECONDS)} FROM (SELECT 1 AS one) AS one"
        )
        self._find = select(
            row.holder,
            row.witness,
            (row.expires_at < now).label("is_expired"),
            (row.expires_at < abandoned).label("is_abandoned"),
        ).where(row.image_hash == bindparam("hash"))
        self._renew = update(row).where(is_one_of, is_ours).values(expires_at=expiry, witness=bindparam("by"))
        self._delete_ours = delete(row).where(is_one_of, is_ours)
        of_the_dead = row.image_hash == bindparam("hash"), row.holder == bindparam("dead")
        self._delete_of_the_dead = delete(row).where(*of_the_dead)
        self._delete_expired = delete(row).where(*of_the_dead, row.expires_at < now)
        self._find_stale = select(row.image_hash).where(row.expires_at < an_hour_ago)
        self._delete_stale = delete(row).where(is_one_of, row.expires_at < an_hour_ago)

    async def take(self, image_hash: str, look_up: Statement) -> tuple[bool, Rows]:
        """Try to become the one that calls the model, unless `look_up` finds that there is nothing to call it for.

        Returns:
            Whether the lease is ours, and what `look_up` finds after that: whoever had the lease before may have stored
            the answer meanwhile. `forget` or `release` must follow where it is ours.

        Raises:
            DatabaseUnavailable, ServerBusy: as `run` does.
        """
        if image_hash in self._left_behind:
            # Otherwise its delayed deletion could hit the new lease.
            await self._clear()
        witness = await self._presence.announce()
        await self._sweep()
        try:
            _, owners, found = await run(
                self._engine,
                [
                    Statement(
                        f"{self._insert} WHERE NOT EXISTS ({look_up.text})",
                        (image_hash, self._presence.holder, witness, *look_up.parameters),
                    ),
                    # The row may be ours from before: a connection lost during COMMIT makes all of this run again.
                    Statement("SELECT holder FROM model_call_lease WHERE image_hash = %s", (image_hash,)),
                    look_up,
                ],
                writes=True,
            )
        except BaseException:
            # It may be ours: nobody else would ever take it from a process that lives.
            self._leave_behind(image_hash)
            raise
        is_ours = bool(owners) and owners[0][0] == self._presence.holder
        if is_ours:
            self._held.add(image_hash)
            self._start_keeper()
        return is_ours, found

    async def wait(self, image_hash: str, deadline: float) -> None:
        """Wait until it makes sense to look into the cache and to try `take` again.

        Args:
            image_hash: a photo whose lease another process has.
            deadline: `time.monotonic()` at which waiting ends.

        Raises:
            ModelTimeout: the deadline has passed.
        """
        pause = POLL_FIRST_SECONDS
        suspect: tuple[str, float] | None = None
        while True:
            if time.monotonic() > deadline:
                raise ModelTimeout
            await asyncio.sleep(random.uniform(0.5, 1) * pause)
            found = await read(self._engine, lambda connection: self._look(connection, image_hash))
            if found is None:
                return
            holder, is_gone, is_expired, is_abandoned = found
            now = time.monotonic()
            if not (is_expired if is_gone is None else is_gone):
                suspect = None
            elif suspect is None or suspect[0] != holder:
                suspect = holder, now
            needed = self._presence.confirm_seconds if is_gone else EXPIRED_FOR_SECONDS
            confirmed = suspect is not None and now - suspect[1] >= needed
            if confirmed or is_abandoned:
                await self._bury(image_hash, holder, only_expired=not (confirmed and is_gone))
                return
            pause = min(1.5 * pause, POLL_MAX_SECONDS)

    def deletion(self, image_hash: str) -> Statement:
        """Return what releases the lease as part of another transaction; `forget` it when that is committed."""
        text = "DELETE FROM model_call_lease WHERE image_hash = %s AND holder = %s"
        return Statement(text, (image_hash, self._presence.holder))

    def forget(self, image_hash: str) -> None:
        """Note that the lease is deleted."""
        self._held.discard(image_hash)

    async def release(self, image_hash: str) -> None:
        """Delete the lease at once, if it is held. If the database fails, it is done later; nothing is raised."""
        if image_hash not in self._held:
            return
        self._leave_behind(image_hash)
        try:
            await self._clear()
        except (AppError, SQLAlchemyError) as error:
            logger.warning("a lease could not be released ({}), next try in a second", type(error).__name__)

    async def close(self) -> None:
        """Release what is left, and leave."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._left_behind |= self._held
        try:
            await self._clear()
        except (AppError, SQLAlchemyError) as error:
            logger.warning("leases could not be released ({}): they end with this process", type(error).__name__)
        await self._presence.close()

    async def _look(self, connection: AsyncConnection, image_hash: str) -> tuple[str, bool | None, bool, bool] | None:
        """The holder, whether it is gone (None: nobody knows), whether its lease is expired, and whether it has been
        for so long that it is abandoned; None: no lease.
        """
        row = (await connection.execute(self._find, {"hash": image_hash})).one_or_none()
        if row is None:
            return None
        is_gone = await self._presence.is_gone(connection, row.holder, row.witness)
        return row.holder, is_gone, bool(row.is_expired), bool(row.is_abandoned)

    async def _bury(self, image_hash: str, holder: str, *, only_expired: bool) -> None:
        """Delete the lease of a dead holder, and nobody else's: it may have been taken over since we looked."""
        statement = self._delete_expired if only_expired else self._delete_of_the_dead

        async def delete_row(connection: AsyncConnection) -> bool:
            return (await connection.execute(statement, {"hash": image_hash, "dead": holder})).rowcount > 0

        if await write(self._engine, delete_row):
            logger.warning("the process that asked the model about photo {} is gone", image_hash[:12])

    def _leave_behind(self, image_hash: str) -> None:
        self._held.discard(image_hash)
        self._left_behind.add(image_hash)
        self._start_keeper()

    async def _clear(self) -> None:
        # One at a time: a deletion that is still on its way could hit a lease of the same photo taken since.
        async with self._clearing:
            hashes = sorted(self._left_behind)

            async def delete_rows(connection: AsyncConnection) -> None:
                await connection.execute(self._delete_ours, {"hashes": hashes})

            if hashes:
                await write(self._engine, delete_rows)
                self._left_behind.difference_update(hashes)

    def _start_keeper(self) -> None:
        if self._keeper is None:
            # In a context of its own: its log lines are not those of the request that happens to start it.
            self._keeper = asyncio.create_task(self._keep(), name="leases", context=Context())

    async def _keep(self) -> None:
        """Renew what is held and delete what is left behind, until there is neither."""
        try:
            while self._held or self._left_behind:
                await asyncio.sleep(RENEW_SECONDS)
                try:
                    await self._renew_and_clear()
                except Exception as error:  # noqa: BLE001 - whatever it was, a second later is another try
                    logger.warning("leases could not be renewed ({})", type(error).__name__)
        finally:
            self._keeper = None

    async def _renew_and_clear(self) -> None:
        await self._clear()
        if not self._held:
            return
        values = {"hashes": list(self._held), "by": await self._presence.announce()}

        async def renew(connection: AsyncConnection) -> None:
            await connection.execute(self._renew, values)

        await write(self._engine, renew)

    async def _sweep(self) -> None:
        """Once an hour, delete what the dead have left for photos that nobody asks for any more."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + STALE_SECONDS

        async def find(connection: AsyncConnection) -> list[str]:
            return list((await connection.scalars(self._find_stale)).all())

        async def delete_rows(connection: AsyncConnection) -> None:
            await connection.execute(self._delete_stale, {"hashes": stale})

        # Found first: a DELETE that reads the whole table would wait for rows that others are about to commit.
        if stale := await read(self._engine, find):
            await write(self._engine, delete_rows)
