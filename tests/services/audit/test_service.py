"""The audit log: a row and a line for each event, and no secret in either."""

import pytest
from loguru import logger
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.tables.audit import AuditEntry
from app.errors import LoginFailed
from app.services.accounts.service import AccountService
from app.services.audit.service import Action, AuditLog


async def entries(engine: AsyncEngine) -> list[tuple[str, str, str | None, str | None]]:
    async with engine.connect() as connection:
        rows = (await connection.execute(select(AuditEntry.__table__).order_by(AuditEntry.id))).all()
    return [(row.action, row.actor, row.subject, row.ip_address) for row in rows]


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
    account = await accounts.register("somebody", "somebody@example.com", "correct horse battery")
    await accounts.log_in("somebody", "correct horse battery", "192.0.2.1")
    for name, password in (("somebody", "guess"), ("my-password-by-mistake", "guess")):
        with pytest.raises(LoginFailed):
            await accounts.log_in(name, password, "192.0.2.1")
    subject = f"account:{account.id}"
    assert await entries(engine) == [
        ("login.succeeded", subject, subject, "192.0.2.1"),
        ("login.failed", "anonymous", subject, "192.0.2.1"),
        ("login.failed", "anonymous", None, "192.0.2.1"),
    ]
