"""Two processes that want leases."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.presence import Presence
from app.services.lease import LeaseService
from tests.services.leases import process


@pytest.fixture
async def ours(engine: AsyncEngine) -> AsyncIterator[LeaseService]:
    async with process(engine) as (leases, _):
        yield leases


@pytest.fixture
async def theirs(engine: AsyncEngine) -> AsyncIterator[tuple[LeaseService, Presence]]:
    async with process(engine) as both:
        yield both
