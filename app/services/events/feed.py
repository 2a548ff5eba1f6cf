"""Tells listeners of every change of their tasks, in whichever process it happened. One table is the stream, and one
watch per process reads it for all its listeners; without listeners nothing is read.

An id is given out when a row is inserted, and seen when its transaction is committed: a lower one may appear later.
So a gap is waited for before what follows it is told, and looked for a while longer: a client that comes back with the
last id it was told has missed nothing, unless a transaction stayed open longer than GAP_SECONDS after its INSERT.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables.inference import TaskEvent
from app.database.transactions import read
from app.errors import AppError, DatabaseUnavailable, ServerBusy, TooManyStreams
from app.observability import metrics
from app.runtime.background import OutageLog, every, fail
from app.services.accounts.service import AccountService, Session
from app.services.events.listener import PAGE_EVENTS, Ending, Listener, TaskChange, task_change
from app.services.events.redis_signal import RedisSignal, Topic

POLL_SECONDS = 0.5
# With Redis a look is only for what could not be announced.
POLL_WITH_SIGNAL_SECONDS = 2.0
# Between two looks, however many changes are announced.
PAUSE_SECONDS = 0.02
LOOK_TIMEOUT_SECONDS = 5.0
LOOK_EVENTS = 500
# A transaction inserts its event last; what is not committed by now was most likely rolled back.
GAP_SECONDS = 0.5
GAP_POLL_SECONDS = 0.05
# Longer than any transaction of ours (app/database/transactions.py).
LATE_SECONDS = 60.0
MAX_MISSING = 500
# How long a stream may outlive its token; one query for ten thousand accounts.
SESSION_CHECK_SECONDS = 5.0
# Of one account in one process; so many idle ones take about 90 MB (python -m bench.sockets).
MAX_STREAMS = 2000
TOO_MANY_RETRY_AFTER_SECONDS = 10

_Row = Row[int, int, dict[str, Any]]


@dataclass(slots=True)
class _Position:
    """Events up to `told` were told or given up; `missing` are ids without a row, and when they were first missed."""

    told: int = 0
    missing: dict[int, float] = field(default_factory=dict)


class TaskEvents:
    """The stream of one process. All methods belong to its event loop; `run` has to run.

    Args:
        engine: the database.
        accounts: knows whose token still counts.
        max_streams: how many may listen at once, of all accounts.
        signal: tells other processes, and hears of them.
    """

    def __init__(
        self, engine: AsyncEngine, accounts: AccountService, *, max_streams: int, signal: RedisSignal | None = None
    ) -> None:
        self._engine = engine
        self._accounts = accounts
        self._signal = signal
        self._max_streams = max_streams
        self._listeners: dict[int, set[Listener]] = {}
        self._count = 0
        self._position: _Position | None = None
        self._is_held = False
        self._is_leaving = False
        self._woken = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        if signal is not None:
            signal.listen(Topic.TASK_EVENTS, self._woken.set)

    def announce(self) -> None:
        """Announce that events have been committed, so that no process has to look. Does not wait and never fails."""
        self._woken.set()
        if self._signal is not None:
            self._signal.send(Topic.TASK_EVENTS)

    @asynccontextmanager
    async def listen(self, session: Session, since: int | None = None) -> AsyncIterator[Listener]:
        """Listen to the account's events after the id `since`, or from now on.

        Raises:
            ServerBusy: the service is about to end, or `max_streams` listen already.
            TooManyStreams: MAX_STREAMS of the account listen already.
            DatabaseUnavailable: the database cannot be reached.
        """
        while not self._is_leaving:
            await self._catch_up()
            if self._position is not None:
                break
        if self._is_leaving or self._position is None or self._count >= self._max_streams:
            raise ServerBusy
        if len(self._listeners.get(session.account.id, ())) >= MAX_STREAMS:
            raise TooManyStreams(retry_after_seconds=TOO_MANY_RETRY_AFTER_SECONDS)
        told = self._position.told
        if since is None or since > told + LOOK_EVENTS:
            # The latter is of another database, such as before a backup was restored.
            since = told
        listener = Listener(
            session, since=since, joined_at=told, not_yet=self._position.missing, read_page=self._read_page
        )
        self._listeners.setdefault(listener.user_id, set()).add(listener)
        metrics.EVENT_STREAMS.inc()
        self._count += 1
        try:
            yield listener
        finally:
            metrics.EVENT_STREAMS.dec()
            listener.close()
            others = self._listeners[listener.user_id]
            others.discard(listener)
            self._count -= 1
            if not others:
                del self._listeners[listener.user_id]

    async def run(self) -> None:
        """Tell listeners what is new, and check their tokens, until the task is cancelled."""
        reading = OutageLog("task events cannot be read", recovered="task events are read again")
        checking = OutageLog("open streams cannot be checked", recovered="open streams are checked again")
        loops = [
            every(PAUSE_SECONDS, self._watch, outage=reading, first_after_seconds=0),
            every(SESSION_CHECK_SECONDS, self.check_sessions, outage=checking),
        ]
        if self._signal is not None:
            loops.append(self._signal.run())
        await asyncio.gather(*loops)

    def end_streams(self) -> None:
        """End all streams, and take no more: the service is about to end."""
        self._is_leaving = True
        for listener in self._all_listeners():
            listener.end(Ending.SERVICE_ENDS)

    async def check_sessions(self) -> None:
        """End the streams of tokens that do not count any more: of deleted accounts and from before a new password.

        Raises:
            DatabaseUnavailable, ServerBusy: nothing is checked.
        """
        listeners = self._all_listeners()
        if not listeners:
            return
        generations = await self._accounts.generations_of(self._listeners)
        now = utc_now()
        for listener in listeners:
            generation = generations.get(listener.user_id)
            # A listener may be newer than what was read.
            if generation is None or generation > listener.generation:
                listener.end(Ending.TOKEN_INVALID)
            elif listener.expires_at <= now:
                listener.end(Ending.TOKEN_EXPIRED)

    def _all_listeners(self) -> list[Listener]:
        return [listener for listeners in self._listeners.values() for listener in listeners]

    async def _catch_up(self) -> None:
        """Wait for a look that begins after this call."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._woken.set()
        await waiter

    async def _watch(self) -> None:
        """Wait until it is time for a look, and look."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval()):
                    await self._woken.wait()
            self._woken.clear()
            if self._listeners or self._waiters:
                break
            self._position = None
        await self._look()

    def _interval(self) -> float | None:
        """How long to wait for an announcement before looking all the same; None: as long as it takes."""
        if not self._listeners:
            return None
        if self._is_held:
            return GAP_POLL_SECONDS
        return POLL_WITH_SIGNAL_SECONDS if self._signal is not None and self._signal.in_contact else POLL_SECONDS

    async def _look(self) -> None:
        """Read what is new and tell it; a failure is told to the requests that wait for the look, too."""
        waiters, self._waiters = self._waiters, []
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
                await self._tell_what_is_new()
        except Exception as error:
            for waiter in waiters:
                fail(waiter, error if isinstance(error, AppError) else DatabaseUnavailable())
            raise
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _tell_what_is_new(self) -> None:
        if self._position is None:
            self._position = await self._begin()
            self._is_held = False
            return
        position = self._position
        while True:
            late = [event_id for event_id in position.missing if event_id <= position.told]

            async def select_new(connection: AsyncConnection, late: Sequence[int] = late) -> Sequence[_Row]:
                is_new = TaskEvent.id > position.told
                query = select(TaskEvent.id, TaskEvent.user_id, TaskEvent.body)
                query = query.where(is_new | TaskEvent.id.in_(late) if late else is_new)
                return (await connection.execute(query.order_by(TaskEvent.id).limit(LOOK_EVENTS))).all()

            rows = await read(self._engine, select_new, max_attempts=1)
            self._is_held = self._advance(position, rows)
            if self._is_held or len(rows) < LOOK_EVENTS:
                return

    def _advance(self, position: _Position, rows: Sequence[_Row]) -> bool:
        """Tell the rows in their order, up to the first gap that is fresh; return whether there is one."""
        now = time.monotonic()
        known = previous = position.told
        is_held = False
        for event_id, user_id, body in rows:
            position.missing.pop(event_id, None)
            if event_id > known:
                # After an empty table most ids before the first are those of deleted rows: they are not waited for.
                missed_at = now if previous else now - 2 * GAP_SECONDS
                for gap in range(max(previous + 1, event_id - MAX_MISSING), event_id):
                    is_held |= now - position.missing.setdefault(gap, missed_at) < GAP_SECONDS
                previous = event_id
                if is_held:
                    continue
                position.told = event_id
            self._tell(event_id, user_id, body)
        awaited = {gap: since for gap, since in position.missing.items() if gap > position.told}
        late = sorted(
            gap for gap, since in position.missing.items() if gap <= position.told and now - since < LATE_SECONDS
        )
        position.missing = {gap: position.missing[gap] for gap in late[-MAX_MISSING:]} | awaited
        return is_held

    def _tell(self, event_id: int, user_id: int, body: dict[str, Any]) -> None:
        listeners = self._listeners.get(user_id)
        if listeners:
            event = task_change(event_id, body)
            for listener in listeners:
                listener.offer(event)

    async def _begin(self) -> _Position:
        """Return the position at the newest event, as of now."""

        async def select_newest(connection: AsyncConnection) -> list[int]:
            newest = select(TaskEvent.id).order_by(TaskEvent.id.desc()).limit(MAX_MISSING)
            return list((await connection.scalars(newest)).all())

        ids = await read(self._engine, select_newest, max_attempts=1)
        if not ids:
            return _Position()
        now = time.monotonic()
        gaps = set(range(max(ids[-1], ids[0] - MAX_MISSING), ids[0])).difference(ids)
        return _Position(ids[0], dict.fromkeys(gaps, now))

    async def _read_page(self, user_id: int, after: int, up_to: int) -> list[TaskChange]:
        async def select_page(connection: AsyncConnection) -> Sequence[Row[int, dict[str, Any]]]:
            query = select(TaskEvent.id, TaskEvent.body)
            query = query.where(TaskEvent.user_id == user_id, TaskEvent.id > after, TaskEvent.id <= up_to)
            return (await connection.execute(query.order_by(TaskEvent.id).limit(PAGE_EVENTS))).all()

        return [task_change(row.id, row.body) for row in await read(self._engine, select_page)]
