"""The audit log: a row and a line for each event, and no secret in either."""

import asyncio
from datetime import timedelta

import pytest
from loguru import logger
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.database import retention
from app.database.tables.audit import AuditEntry
from app.errors import LoginFailed
from app.services.accounts.service import AccountService
from app.services.audit.lifespan import open_audit
from app.services.audit.service import Action, AuditLog
from tests.support.audit import details_of, entries


async def test_an_event_is_a_row_and_a_line(engine: AsyncEngine) -> None:
    lines: list[str] = []
    number = logger.add(lines.append, format="{message}")
    hostile = "a\nFORGED LINE \x1b[2J" + "x" * 200
    await AuditLog(engine).record(Action.KEY_CREATED, "cli:root", hostile, "2001:db8::1", {"name": "名"})
    logger.remove(number)
    [line] = lines
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "key.created" in line
    assert await entries(engine) == [("key.created", "cli:root", hostile[:128], "2001:db8::1")]


async def test_log_ins_are_recorded_without_what_was_typed(accounts: AccountService, engine: AsyncEngine) -> None:
    account = await accounts.register("alice", "alice@example.com", "correct horse battery")
    await accounts.log_in("alice", "correct horse battery", "192.0.2.1")
    for name, password in (("alice", "guess"), ("my-password-by-mistake", "guess")):
        with pytest.raises(LoginFailed):
            await accounts.log_in(name, password, "192.0.2.1")
    subject = f"account:{account.id}"
    assert await entries(engine) == [
        ("login.succeeded", subject, subject, "192.0.2.1"),
        ("login.failed", "anonymous", subject, "192.0.2.1"),
        ("login.failed", "anonymous", None, "192.0.2.1"),
    ]


async def test_what_an_owner_changes_is_recorded_without_the_new_values(
    accounts: AccountService, engine: AsyncEngine
) -> None:
    account = await accounts.sign_up("alice", "alice@example.com", "correct horse battery", "192.0.2.1")
    account = await accounts.update(account, "192.0.2.2", email="secret@example.com", password="another long sentence")
    await accounts.end_tokens(account, "192.0.2.3")
    await accounts.delete(account, "192.0.2.4")
    name = f"account:{account.id}"
    assert await entries(engine) == [
        ("user.created", name, name, "192.0.2.1"),
        ("user.changed", name, name, "192.0.2.2"),
        ("user.tokens_ended", name, name, "192.0.2.3"),
        ("user.deleted", name, name, "192.0.2.4"),
    ]
    assert await details_of(engine) == [{}, {"fields": ["email", "password"]}, {}, {}]


async def old_and_new_events(engine: AsyncEngine) -> None:
    """Events of the last twenty days, one for each."""
    now = utc_now()
    event: dict[str, object] = {"actor": "tests", "action": "key.refused", "ip_address": None, "details": {}}
    async with engine.begin() as connection:
        rows = [{**event, "at": now - timedelta(days=n, seconds=-9), "subject": f"{n}"} for n in range(20)]
        await connection.execute(insert(AuditEntry), rows)


async def test_old_events_are_deleted_in_batches(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "DELETE_BATCH_ROWS", 3)
    monkeypatch.setattr(retention, "DELETE_PAUSE_SECONDS", 0)
    await old_and_new_events(engine)
    assert await AuditLog(engine).delete_older_than(utc_now() - timedelta(days=10)) == 9
    assert [subject for _, _, subject, _ in await entries(engine)] == [f"{n}" for n in range(11)]


@pytest.mark.parametrize(("days", "left"), [(5, 6), (0, 20)])
async def test_a_service_keeps_events_as_long_as_it_is_told(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, days: int, left: int
) -> None:
    monkeypatch.setattr(retention, "FIRST_RUN_MAX_SECONDS", 0)
    await old_and_new_events(engine)
    async with open_audit(engine, retention_days=days), asyncio.timeout(120):
        while len(await entries(engine)) > left:  # noqa: ASYNC110 - a table tells of no change
            await asyncio.sleep(0.01)
    assert len(await entries(engine)) == left
