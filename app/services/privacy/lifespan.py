"""What a process needs to forget users, and to tell what is kept of them."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.runtime.background import OutageLog, every, running
from app.services.privacy.service import PrivacyService

SWEEP_SECONDS = 3600.0
# Processes that start together do not sweep together.
FIRST_SWEEP_MAX_SECONDS = 300.0


@asynccontextmanager
async def open_privacy(engine: AsyncEngine) -> AsyncIterator[PrivacyService]:
    """Forget users for the length of the block, and each hour deleted accounts that have left something."""
    privacy = PrivacyService(engine)
    sweep = every(
        SWEEP_SECONDS,
        privacy.forgetting.forget_deleted_accounts,
        outage=OutageLog("deleted accounts cannot be forgotten", recovered="deleted accounts are forgotten again"),
        first_after_seconds=random.uniform(0, FIRST_SWEEP_MAX_SECONDS),
    )
    async with running(sweep, name="deleted-accounts"):
        yield privacy
