"""Task events through Redis, which comes and goes."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.accounts.service import AccountService, Session
from app.services.events import feed, redis_signal
from tests.servers.processes import free_port
from tests.servers.redis import running_redis, silent_server
from tests.support.event_streams import NEVER, ids, in_contact, process, until
from tests.support.events import add_event


async def test_with_redis_other_processes_hear_at_once(
    engine: AsyncEngine,
    accounts: AccountService,
    session: Session,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", NEVER)
    monkeypatch.setattr(feed, "POLL_WITH_SIGNAL_SECONDS", NEVER)
    async with process(engine, accounts, redis_url) as here, process(engine, accounts, redis_url) as there:
        await in_contact(there)
        async with there.listen(session) as listener:
            for _ in range(5):
                event_id = await add_event(engine, session.account.id)
                here.announce()
                assert await ids(listener, 1) == [event_id]


async def test_redis_may_vanish_and_come_back(
    engine: AsyncEngine,
    accounts: AccountService,
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_signal, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(feed, "POLL_WITH_SIGNAL_SECONDS", NEVER)
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.05)
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
        process(engine, accounts, address, redis_timeout_seconds=0.2) as stream,
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
    monkeypatch.setattr(redis_signal, "SILENCE_SECONDS", 1.0)
    async with process(engine, accounts, redis_url) as stream:
        await in_contact(stream)
        signal = stream._signal
        assert signal is not None
        # A server that answers its pings stays.
        await asyncio.sleep(2.0)
        assert signal.in_contact
