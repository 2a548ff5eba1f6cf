"""A nonce counts once, whichever process of whichever machine is asked: its row can be inserted once."""

import hashlib
from datetime import UTC, datetime

from loguru import logger
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import utc_now
from app.database.retention import delete_in_batches, delete_regularly
from app.database.statements import Statement, execute, insert_ignore, timestamp_text
from app.database.tables.signatures import SignatureNonce
from app.database.transactions import write

INTERVAL_SECONDS = 300


class NonceTable:
    """The nonces of the last minutes, in `signature_nonce`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def use(self, key_id: int, nonce: str, *, request_id: str, expires_at: int) -> bool:
        """Use up a nonce of a key; return whether this request is the first.

        Args:
            key_id: each key has nonces of its own.
            nonce: that of the request's signature.
            request_id: tells this request's row from another's, where a COMMIT had no answer and is tried again.
            expires_at: Unix seconds from which the signature itself is refused, by every machine's clock.

        Raises:
            DatabaseUnavailable, ServerBusy: it cannot be told.
        """
        nonce_hash = hashlib.sha256(f"{key_id}:{nonce}".encode()).hexdigest()
        values = (nonce_hash, request_id, timestamp_text(datetime.fromtimestamp(expires_at, UTC)))
        columns = "nonce_hash, request_id, expires_at"

        async def insert(connection: AsyncConnection) -> bool:
            text = f"{insert_ignore(connection.dialect.name)} signature_nonce ({columns}) VALUES (%s, %s, %s)"
            if (await execute(connection, Statement(text, values))).rowcount:
                return True
            query = select(SignatureNonce.request_id).where(SignatureNonce.nonce_hash == nonce_hash)
            return await connection.scalar(query) == request_id

        return await write(self._engine, insert)

    async def run(self) -> None:
        """Delete expired nonces every few minutes until the task is cancelled."""
        await delete_regularly(self._sweep, seconds=INTERVAL_SECONDS, what="old nonces")

    async def _sweep(self) -> None:
        if deleted := await self.delete_expired():
            logger.debug("{} old nonces were deleted", deleted)

    async def delete_expired(self) -> int:
        """Delete once; return how many."""
        return await delete_in_batches(self._engine, _delete_batch)


async def _delete_batch(connection: AsyncConnection, rows: int) -> int:
    row = SignatureNonce
    old = select(row.nonce_hash).where(row.expires_at < utc_now()).limit(rows)
    if hashes := (await connection.scalars(old)).all():
        await connection.execute(delete(row).where(row.nonce_hash.in_(hashes)))
    return len(hashes)
