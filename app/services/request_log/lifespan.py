"""What a process needs to log requests, sum them up, count errors, and delete what is old."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import StatisticsSettings
from app.runtime.background import OutageLog, every, running
from app.services.request_log.backfill import recount_visitors
from app.services.request_log.calendar import LOOK_SECONDS, keep_calendar
from app.services.request_log.error_counts import ErrorCounts
from app.services.request_log.recorder import RequestRecorder
from app.services.request_log.rollups import Rollups
from app.services.request_log.service import RequestLogService
from app.services.spool.service import Spool


@dataclass(frozen=True, slots=True)
class RequestLog:
    """The parts that others use: `recorder` writes rows, `service` reads them, `rollups` sums them up."""

    rollups: Rollups
    recorder: RequestRecorder
    service: RequestLogService


@asynccontextmanager
async def open_request_log(
    settings: StatisticsSettings, engine: AsyncEngine, *, spool: Spool, currency: str
) -> AsyncIterator[RequestLog]:
    """Log requests for the length of the block; at its end, write what was handed over.

    Args:
        settings: what is logged, and for how long.
        engine: the database; after a change of the time zone its visitors are counted again first, and it is
            told when the days of the zone begin.
        spool: takes what the database does not.
        currency: of what hits save.

    Raises:
        AppError: the database is not usable.
    """
    await recount_visitors(engine, settings.timezone)
    await keep_calendar(engine, settings.timezone)
    rollups = Rollups(engine.dialect.name, settings.timezone)
    recorder = RequestRecorder(
        engine,
        rollups=rollups,
        spool=spool,
        currency=currency,
        log_enabled=settings.log_enabled,
        durability=settings.log_durability,
    )
    service = RequestLogService(engine, settings.timezone)
    errors = ErrorCounts(engine)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(recorder.close)
        stack.push_async_callback(errors.close)
        await stack.enter_async_context(running(errors.run(), name="error-counts"))
        calendar = every(
            LOOK_SECONDS,
            partial(keep_calendar, engine, settings.timezone),
            outage=OutageLog("the calendar cannot be kept", recovered="the calendar is kept again"),
        )
        await stack.enter_async_context(running(calendar, name="calendar"))
        if settings.log_retention_days:
            retention = service.keep_short(settings.log_retention_days)
            await stack.enter_async_context(running(retention, name="log-retention"))
        yield RequestLog(rollups, recorder, service)
