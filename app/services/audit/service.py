"""Writes the audit log: a line in the service's log, then a row of `audit_log`.

A secret is never part of an event: keys are named by their id, accounts by theirs, log-ins by what was typed as a name.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from loguru import logger
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.tables.audit import AuditEntry
from app.database.transactions import write
from app.errors import DatabaseUnavailable, ServerBusy

# Of the columns; what is longer is cut off, since a caller chooses the name of a log-in.
ACTOR_MAX_CHARACTERS = 128
SUBJECT_MAX_CHARACTERS = 128


class Action(StrEnum):
    """What is recorded; a word of the log and of the table, so it does not change."""

    LOG_IN = "login.succeeded"
    LOG_IN_FAILED = "login.failed"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    KEY_REFUSED = "key.refused"
    ENTRY_CORRECTED = "cache_entry.corrected"
    ENTRY_REMOVED = "cache_entry.removed"
    USER_CREATED = "user.created"
    USER_CHANGED = "user.changed"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    USER_PASSWORD_RESET = "user.password_reset"  # noqa: S105 - the name of an event
    USER_DELETED = "user.deleted"
    USER_FORGOTTEN = "user.forgotten"
    USER_EXPORTED = "user.exported"


class AuditLog:
    """Records events in the database and in the service's log."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def record(
        self,
        action: Action,
        actor: str,
        subject: str | None = None,
        ip_address: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Record one event that has happened. Where the database is away, the line in the log is all that is kept.

        Args:
            action: what was done.
            actor: who did it, such as `key:5`, `ADMIN_API_KEY`, `account:7`, `cli:root`; `anonymous` where unknown.
            subject: what it was done to, such as `account:7`, `key:5` or an image's hash.
            ip_address: where the request came from; None for the command line.
            details: what else an operator wants to know, in JSON; no secrets.
        """
        actor, subject = actor[:ACTOR_MAX_CHARACTERS], subject and subject[:SUBJECT_MAX_CHARACTERS]
        details = dict(details or {})
        logger.bind(audit=action.value).info(
            "audit {} by {!r} on {!r} from {} {}", action.value, actor, subject, ip_address or "-", details
        )
        values = {
            "at": utc_now(),
            "actor": actor,
            "action": action.value,
            "subject": subject,
            "ip_address": ip_address,
            "details": details,
        }

        async def insert_entry(connection: AsyncConnection) -> None:
            await connection.execute(insert(AuditEntry).values(**values))

        try:
            await write(self._engine, insert_entry)
        except (DatabaseUnavailable, ServerBusy):
            # What was done cannot be undone because of this; the line above says what it was.
            logger.warning("an event of the audit log could not be written to the database")
