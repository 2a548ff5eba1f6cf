"""Writes the audit log: a line in the service's log, then a row of `audit_log`.

A secret is never part of an event: keys are named by their id, accounts by theirs, log-ins by what was typed as a name.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from loguru import logger
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.retention import delete_in_batches, delete_regularly
from app.database.tables.audit import AuditEntry
from app.database.transactions import write
from app.errors import DatabaseUnavailable, ServerBusy

# Of the columns; what is longer is cut off, since a caller chooses the name of a log-in.
ACTOR_MAX_CHARACTERS = 128
SUBJECT_MAX_CHARACTERS = 128
RETENTION_INTERVAL_SECONDS = 24 * 3600


class Action(StrEnum):
    """What is recorded; a word of the log and of the table, so it does not change."""

    LOG_IN = "login.succeeded"
    LOG_IN_FAILED = "login.failed"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    KEY_REFUSED = "key.refused"
    ENTRY_CORRECTED = "cache_entry.corrected"
    ENTRY_REMOVED = "cache_entry.removed"
    ENTRY_MARKED = "cache_entry.marked"
    ENTRY_RESTORED = "cache_entry.restored"
    FEEDBACK_DISMISSED = "feedback.dismissed"
    ENTRIES_MARKED = "cache_entries.marked"
    ENTRIES_UNMARKED = "cache_entries.unmarked"
    USER_CREATED = "user.created"
    USER_CHANGED = "user.changed"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    USER_PASSWORD_RESET = "user.password_reset"  # noqa: S105 - the name of an event
    USER_DELETED = "user.deleted"
    USER_TOKENS_ENDED = "user.tokens_ended"
    USER_FORGOTTEN = "user.forgotten"
    USER_EXPORTED = "user.exported"
    DEVICE_TOKEN_ISSUED = "device_token.issued"  # noqa: S105 - the name of an event


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

    async def delete_older_than(self, cutoff: datetime) -> int:
        """Delete the events before `cutoff` in small batches; return how many."""

        async def delete_batch(connection: AsyncConnection, rows: int) -> int:
            row = AuditEntry
            ids = (await connection.scalars(select(row.id).where(row.at < cutoff).limit(rows))).all()
            if ids:
                await connection.execute(delete(row).where(row.id.in_(ids)))
            return len(ids)

        return await delete_in_batches(self._engine, delete_batch)

    async def keep_short(self, retention_days: int) -> None:
        """Delete what is older than `retention_days` once a day until the task is cancelled."""

        async def delete_old() -> None:
            deleted = await self.delete_older_than(utc_now() - timedelta(days=retention_days))
            logger.info("retention: deleted {} events of the audit log older than {} days", deleted, retention_days)

        await delete_regularly(delete_old, seconds=RETENTION_INTERVAL_SECONDS, what="old events of the audit log")
