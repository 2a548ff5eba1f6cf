"""What a process needs to check signatures: the table of nonces, swept from time to time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.runtime.background import running
from app.services.signatures.keys import KeyStore
from app.services.signatures.nonces import NonceTable
from app.services.signatures.service import SignatureService


@asynccontextmanager
async def open_signatures(engine: AsyncEngine, *, keys: KeyStore) -> AsyncIterator[SignatureService]:
    """Check signatures for the length of the block.

    Args:
        engine: the database.
        keys: whose keys may sign.
    """
    nonces = NonceTable(engine)
    async with running(nonces.run(), name="nonces"):
        yield SignatureService(keys, nonces)
