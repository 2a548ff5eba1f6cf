"""What a process needs of the spool: its folder, and room in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.config.settings import Settings
from app.services.spool.service import Spool

FOLDER = "spool"


@asynccontextmanager
async def open_spool(settings: Settings) -> AsyncIterator[Spool]:
    """Keep what the database does not take for the length of the block; at its end, write it if that is possible.

    The features that use it name their `on_replay` within the block, and only then it is `run`.
    """
    spool = Spool(settings.data_dir / FOLDER, settings.spool_max_bytes)
    try:
        yield spool
    finally:
        await spool.close()
