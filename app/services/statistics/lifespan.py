"""What a process needs to show figures: those of days and series, and the dashboard's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import StatisticsSettings
from app.database.replica import Replica
from app.services.health import HealthService
from app.services.statistics.dashboard import DashboardFeed
from app.services.statistics.service import StatsService


@asynccontextmanager
async def open_statistics(
    settings: StatisticsSettings, engine: AsyncEngine, *, replica: Replica | None, health: HealthService
) -> AsyncIterator[tuple[StatsService, DashboardFeed]]:
    """Show figures for the length of the block, whose end ends the dashboard's streams.

    Args:
        settings: the zone of the days, and what a call costs.
        engine: the main database.
        replica: is read in its place, if there is one.
        health: is part of the dashboard.
    """
    stats = StatsService(engine, settings, replica)
    dashboard = DashboardFeed(stats, health)
    try:
        yield stats, dashboard
    finally:
        await dashboard.close()
