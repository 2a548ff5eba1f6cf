"""Users who were forgotten lately, so that what still waits in a spool does not bring their ids back.

A row in a spool may be written days after its request, by an instance that was not reached when the user was forgotten.
It is written without a name if the user was forgotten after the request. This is known for FORGOTTEN_KEPT, by a
fingerprint of the id; a row that is older is written without a name in any case.
"""

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.statements import Statement, execute, timestamp_text, upsert
from app.database.tables.request_log import ForgottenUser
from app.database.transactions import read

FORGOTTEN_KEPT = timedelta(days=7)


async def note_forgotten(connection: AsyncConnection, user_id: str) -> None:
    """Remember that a user is forgotten now, and no longer who was forgotten long ago."""
    text = upsert(
        connection.dialect.name,
        table="forgotten_user",
        keys=["user_hash"],
        updates={"forgotten_at": "{new}"},
        columns="user_hash, forgotten_at",
        source="VALUES (%s, %s)",
    )
    await execute(connection, Statement(text, (_fingerprint(user_id), timestamp_text(utc_now()))))
    oldest = ForgottenUser.forgotten_at < utc_now() - FORGOTTEN_KEPT
    ids = (await connection.scalars(select(ForgottenUser.user_hash).where(oldest))).all()
    if ids:
        # By their keys, which lock no other row.
        await connection.execute(delete(ForgottenUser).where(ForgottenUser.user_hash.in_(ids)))


async def forgotten_among(engine: AsyncEngine, user_ids: Collection[str]) -> dict[str, datetime]:
    """Return when each of those users was forgotten who were.

    Raises:
        DatabaseUnavailable, ServerBusy: as `read`.
    """
    fingerprints = {_fingerprint(user_id): user_id for user_id in user_ids}
    if not fingerprints:
        return {}
    query = select(ForgottenUser.user_hash, ForgottenUser.forgotten_at).where(ForgottenUser.user_hash.in_(fingerprints))

    async def select_times(connection: AsyncConnection) -> dict[str, datetime]:
        return {fingerprints[row.user_hash]: row.forgotten_at for row in await connection.execute(query)}

    # The spool tells what is amiss.
    return await read(engine, select_times, quietly=True)


def is_forgotten(forgotten: Mapping[str, datetime], user_id: str, at: datetime) -> bool:
    """Return whether what a user did `at` a time is to be written without a name; `forgotten` as found above."""
    return at < utc_now() - FORGOTTEN_KEPT or (user_id in forgotten and at <= forgotten[user_id])


def _fingerprint(user_id: str) -> str:
    return hashlib.sha256(user_id.encode()).hexdigest()
