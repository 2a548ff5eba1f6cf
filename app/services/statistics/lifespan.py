"""What a process needs to show figures: those of days and series, and the dashboard's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.thresholds import Measured
from app.config.settings import Settings
from app.database.replica import Replica
from app.services.health import HealthService
from app.services.statistics.dashboard import DashboardFeed
from app.services.statistics.service import StatsService


@asynccontextmanager
async def open_statistics(
    settings: Settings,
    engine: AsyncEngine,
    *,
    replica: Replica | None,
    health: HealthService,
    sure_answers: Measured | None = None,
) -> AsyncIterator[tuple[StatsService, DashboardFeed]]:
    """Show figures for the length of the block, whose end ends the dashboard's streams.

    Args:
        settings: the zone of the days, and the currency.
        engine: the main database.
        replica: is read in its place, if there is one.
        health: is part of the dashboard.
        sure_answers: what was measured of the local model's answers in a cascade; None: there is none.
    """
    stats = StatsService(
        engine, settings.statistics, replica, currency=settings.spending.currency, sure_answers=sure_answers
    )
    dashboard = DashboardFeed(stats, health)
    try:
        yield stats, dashboard
    finally:
        await dashboard.close()
