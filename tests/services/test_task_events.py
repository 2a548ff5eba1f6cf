"""The stream itself: one watch for all, ids that appear late, Redis that comes and goes, and the service's end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.database import transactions
from app.database.account_tables import TaskEvent
from app.errors import DatabaseUnavailable, ServerBusy
from app.services import redis_signal, task_events
from app.services.accounts import AccountService, Session
from app.services.login_throttle import LoginThrottle
from app.services.passwords import PasswordHasher
from app.services.redis_signal import RedisSignal
from app.services.task_events import TaskEvents
from app.services.task_listener import Ending, Listener, TaskChange, task_change
from app.services.tokens import TokenIssuer
from app.storage import LocalStorage
from tests.events import add_event, add_events, body_of, insert_event
from tests.servers.processes import free_port
from tests.servers.redis import running_redis, silent_server
from tests.services.libraries import library_on

DEADLINE_SECONDS = 20.0
NEVER = 3600.0


@pytest.fixture
async def accounts(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[AccountService]:
    passwords = PasswordHasher()
    async with library_on(engine, LocalStorage(tmp_path)) as library:
        yield AccountService(
            engine,
            passwords=passwords,
            tokens=TokenIssuer("k" * 32, timedelta(days=1)),
            throttle=LoginThrottle(engine),
            library=library,
        )
    passwords.close()


@pytest.fixture
async def session(accounts: AccountService) -> Session:
    account = await accounts.register("testuser", "test@example.com", "testpassword123")
    return Session(account, 0, utc_now() + timedelta(days=1))


@asynccontextmanager
async def process(
    engine: AsyncEngine, accounts: AccountService, redis_url: str | None = None, *, max_streams: int = 1000
) -> AsyncIterator[TaskEvents]:
    """One process' stream."""
    signal = None if redis_url is None else RedisSignal(redis_url, key_space="test")
    stream = TaskEvents(engine, accounts, max_streams=max_streams, signal=signal)
    task = asyncio.create_task(stream.run())
    try:
        yield stream
    finally:
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if signal is not None:
            await signal.close()


async def ids(listener: Listener, count: int) -> list[int]:
    """The ids of the next events."""
    seen: list[int] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for change in listener.events():
            seen.append(change.id)
            if len(seen) == count:
                break
    return seen


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what changes tells nobody
            await asyncio.sleep(0.005)


class Queries:
    """Counts what a database is asked for the events."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.count = 0
        event.listen(engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.count += "SELECT" in statement and "task_event" in statement


async def test_an_announcement_wakes_the_watch(
    engine: AsyncEngine, accounts: AccountService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_events, "POLL_SECONDS", NEVER)
    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        event_id = await add_event(engine, session.account.id)
        stream.announce()
        assert await ids(listener, 1) == [event_id]


async def test_without_an_announcement_the_watch_looks_by_itself(
    engine: AsyncEngine, accounts: AccountService, session: Session
) -> None:
    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        event_id = await add_event(engine, session.account.id)
        assert await ids(listener, 1) == [event_id]


async def test_many_listeners_cost_no_more_queries_than_one_and_none_costs_none(
    engine: AsyncEngine, accounts: AccountService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_events, "POLL_SECONDS", 0.05)
    queries = Queries(engine)
    async with process(engine, accounts) as stream:
        stream.announce()
        await asyncio.sleep(0.2)
        assert queries.count == 0
        contexts = [stream.listen(session) for _ in range(100)]
        listeners = await asyncio.gather(*(each.__aenter__() for each in contexts))
        # They came together: one look found the position, perhaps one more began before the last of them came.
        assert queries.count <= 3
        before = queries.count
        await asyncio.sleep(0.5)
        assert 1 <= queries.count - before <= 10
        event_id = await add_event(engine, session.account.id)
        assert await asyncio.gather(*(ids(each, 1) for each in listeners)) == [[event_id]] * 100
        for each in contexts:
            await each.__aexit__(None, None, None)
        await asyncio.sleep(0.2)
        before = queries.count
        await asyncio.sleep(0.2)
        assert queries.count == before


async def test_the_order_is_that_of_the_ids_also_when_a_lower_one_is_committed_later(
    engine: AsyncEngine, accounts: AccountService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    monkeypatch.setattr(task_events, "GAP_SECONDS", NEVER)
    user_id = session.account.id
    first = await add_event(engine, user_id)
    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        async with engine.begin() as slow:
            late = await insert_event(slow, user_id, body_of())
            after = await add_events(engine, user_id, 2)
            assert first < late < after[0]
            stream.announce()
            # Whoever comes now begins before the gap.
            async with stream.listen(session) as newcomer:
                assert newcomer.since == first
                assert not listener._queue
        stream.announce()
        assert await ids(listener, 3) == [late, *after]


async def test_the_first_events_of_an_empty_table_may_be_committed_in_any_order(
    engine: AsyncEngine, accounts: AccountService, session: Session
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    user_id = session.account.id
    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        async with engine.begin() as slow:
            late = await insert_event(slow, user_id, body_of())
            after = await add_event(engine, user_id)
            stream.announce()
            assert await ids(listener, 1) == [after]
        stream.announce()
        assert await ids(listener, 1) == [late]


async def test_what_is_committed_very_late_arrives_once_and_holds_up_nobody_for_long(
    engine: AsyncEngine, accounts: AccountService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    monkeypatch.setattr(task_events, "GAP_SECONDS", 0.1)
    user_id = session.account.id
    first = await add_event(engine, user_id)
    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        async with engine.begin() as slow:
            late = await insert_event(slow, user_id, body_of())
            after = await add_events(engine, user_id, 2)
            assert await ids(listener, 2) == after
            newcomers = [stream.listen(session, since) for since in (first, after[0], after[1])]
            others = [await each.__aenter__() for each in newcomers]
        more = await add_event(engine, user_id)
        assert await ids(listener, 2) == [late, more]
        assert await ids(others[0], 4) == [*after, late, more]
        assert await ids(others[1], 3) == [after[1], late, more]
        assert await ids(others[2], 2) == [late, more]
        for each in newcomers:
            await each.__aexit__(None, None, None)


async def test_a_gap_that_is_never_filled_is_given_up(
    engine: AsyncEngine, accounts: AccountService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_events, "GAP_SECONDS", 0.1)
    monkeypatch.setattr(task_events, "LATE_SECONDS", 0.3)
    user_id = session.account.id
    await add_event(engine, user_id)
    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        written = await add_events(engine, user_id, 6)
        async with engine.begin() as transaction:
            await transaction.execute(delete(TaskEvent).where(TaskEvent.id.in_(written[1:-1:2])))
        seen = await ids(listener, 4)
        assert seen == sorted(seen)
        assert set(seen) >= {written[0], written[2], written[4]}
        position = stream._position
        assert position is not None
        stream.announce()
        await until(lambda: not position.missing)


async def test_more_than_one_look_can_read(
    engine: AsyncEngine, accounts: AccountService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_events, "LOOK_EVENTS", 7)
    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        written = await add_events(engine, session.account.id, 30)
        stream.announce()
        assert await ids(listener, 30) == written


async def test_ids_are_not_given_out_twice(engine: AsyncEngine, session: Session) -> None:
    first = await add_event(engine, session.account.id)
    async with engine.begin() as transaction:
        await transaction.execute(delete(TaskEvent))
    assert await add_event(engine, session.account.id) > first


async def test_no_more_may_listen_than_there_is_room_for(
    engine: AsyncEngine, accounts: AccountService, session: Session
) -> None:
    async with process(engine, accounts, max_streams=2) as stream:
        async with stream.listen(session), stream.listen(session):
            with pytest.raises(ServerBusy):
                await stream.listen(session).__aenter__()
        async with stream.listen(session), stream.listen(session):
            assert len(stream._listeners[session.account.id]) == 2


async def test_the_service_ends(engine: AsyncEngine, accounts: AccountService, session: Session) -> None:
    async with process(engine, accounts) as stream:
        async with stream.listen(session) as listener:
            stream.end_streams()
            assert await listener.ended is Ending.SERVICE_ENDS
        with pytest.raises(ServerBusy):
            await stream.listen(session).__aenter__()


async def test_a_database_that_is_away_for_a_while(
    engine: AsyncEngine, accounts: AccountService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_events, "POLL_SECONDS", 0.02)
    read = transactions.read

    async def fail(*arguments: Any, **options: Any) -> Any:
        raise DatabaseUnavailable

    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        monkeypatch.setattr(task_events, "read", fail)
        event_id = await add_event(engine, session.account.id)
        with pytest.raises(DatabaseUnavailable):
            await stream.listen(session).__aenter__()
        assert listener.user_id in stream._listeners
        monkeypatch.setattr(task_events, "read", read)
        assert await ids(listener, 1) == [event_id]


# ----- Redis


async def test_with_redis_other_processes_hear_at_once(
    engine: AsyncEngine,
    accounts: AccountService,
    session: Session,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_events, "POLL_SECONDS", NEVER)
    monkeypatch.setattr(task_events, "POLL_WITH_SIGNAL_SECONDS", NEVER)
    async with process(engine, accounts, redis_url) as here, process(engine, accounts, redis_url) as there:
        await in_contact(there)
        async with there.listen(session) as listener:
            for _ in range(5):
                event_id = await add_event(engine, session.account.id)
                here.announce()
                assert await ids(listener, 1) == [event_id]


async def in_contact(stream: TaskEvents) -> None:
    signal = stream._signal
    assert signal is not None
    await until(lambda: signal.in_contact)


async def test_redis_may_vanish_and_come_back(
    engine: AsyncEngine,
    accounts: AccountService,
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_signal, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(task_events, "POLL_WITH_SIGNAL_SECONDS", NEVER)
    monkeypatch.setattr(task_events, "POLL_SECONDS", 0.05)
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    async with (
        process(engine, accounts, url) as here,
        process(engine, accounts, url) as there,
        there.listen(session) as listener,
    ):

        async def hear() -> None:
            event_id = await add_event(engine, session.account.id)
            here.announce()
            assert await ids(listener, 1) == [event_id]

        signal = there._signal
        assert signal is not None
        await hear()
        for _ in range(2):
            with running_redis(tmp_path, port=port):
                await in_contact(there)
                await hear()
            await until(lambda: not signal.in_contact)
            await hear()


async def test_a_redis_that_never_answers_is_done_without(
    engine: AsyncEngine, accounts: AccountService, session: Session
) -> None:
    async with (
        silent_server() as address,
        process(engine, accounts, address) as stream,
        stream.listen(session) as listener,
    ):
        for _ in range(2):
            event_id = await add_event(engine, session.account.id)
            stream.announce()
            assert await ids(listener, 1) == [event_id]
        assert stream._signal is not None
        assert not stream._signal.in_contact


async def test_a_redis_that_has_gone_silent_is_left(
    engine: AsyncEngine, accounts: AccountService, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.setattr(redis_signal, "SILENCE_SECONDS", 0.1)
    async with process(engine, accounts, redis_url) as stream:
        await in_contact(stream)
        signal = stream._signal
        assert signal is not None
        # A server that answers its pings stays.
        await asyncio.sleep(0.5)
        assert signal.in_contact


# ----- events


def test_an_event_is_its_body_and_its_id() -> None:
    change = task_change(7, body_of("failed", id="x", error="模型\ud800"))
    assert json.loads(change.text) == {"event": "task", "id": 7} | body_of("failed", error="模型?") | {"id": 7}
    assert change == TaskChange(7, change.text)
