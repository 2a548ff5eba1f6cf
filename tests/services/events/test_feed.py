"""The stream itself: one watch for all, ids that appear late, and the service's end."""

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import delete, event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import transactions
from app.database.tables.inference import TaskEvent
from app.errors import DatabaseUnavailable, ServerBusy
from app.services.accounts.service import AccountService, Session
from app.services.events import feed
from app.services.events.listener import Ending, TaskChange, task_change
from tests.support.event_streams import NEVER, ids, process, until
from tests.support.events import add_event, add_events, body_of, insert_event


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
    monkeypatch.setattr(feed, "POLL_SECONDS", NEVER)
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
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.05)
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
    monkeypatch.setattr(feed, "GAP_SECONDS", NEVER)
    user_id = session.account.id
    first = await add_event(engine, user_id)
    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        async with engine.begin() as slow:
            late = await insert_event(slow, user_id, body_of())
            after = await add_events(engine, user_id, 2)
            assert first < late < after[0]
            stream.announce()
            # A listener that comes now begins before the gap.
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
    monkeypatch.setattr(feed, "GAP_SECONDS", 0.1)
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
    monkeypatch.setattr(feed, "GAP_SECONDS", 0.1)
    monkeypatch.setattr(feed, "LATE_SECONDS", 0.3)
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
    monkeypatch.setattr(feed, "LOOK_EVENTS", 7)
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
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.02)
    read = transactions.read

    async def fail(*arguments: Any, **options: Any) -> Any:
        raise DatabaseUnavailable

    async with process(engine, accounts) as stream, stream.listen(session) as listener:
        monkeypatch.setattr(feed, "read", fail)
        event_id = await add_event(engine, session.account.id)
        with pytest.raises(DatabaseUnavailable):
            await stream.listen(session).__aenter__()
        assert listener.user_id in stream._listeners
        monkeypatch.setattr(feed, "read", read)
        assert await ids(listener, 1) == [event_id]


def test_an_event_is_its_body_and_its_id() -> None:
    change = task_change(7, body_of("failed", id="x", error="模型\ud800"))
    assert json.loads(change.text) == {"event": "task", "id": 7} | body_of("failed", error="模型?") | {"id": 7}
    assert change == TaskChange(7, change.text)
