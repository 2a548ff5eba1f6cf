"""The visitors of each day, counted again after a change of STATS_TIMEZONE; all other sums fit any zone.

No process writes meanwhile: each comes here before it serves, and goes on only when all days are counted. A day is one
transaction that also keeps how far the count has come, so a process that is stopped halfway loses nothing, and those
that start together share the days.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from loguru import logger
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import day_in_utc
from app.database.engine import SQLITE_BEGIN_IMMEDIATE
from app.database.statements import Statement, execute, timestamp_text, upsert
from app.database.tables.request_log import RequestLog
from app.database.tables.statistics import PeriodTotals, StatsState, VisitorCount
from app.database.transactions import is_passing, read, reason
from app.errors import DatabaseUnavailable
from app.services.request_log.rollups import ADDRESS, USER, insert_visitors

RETRY_SECONDS = 1.0
# Names in `stats_state`: the zone for which the visitors are counted, and how far they are for another ("zone day").
_ZONE = "time_zone"
_VISITORS = "visitors"


async def recount_visitors(engine: AsyncEngine, zone: ZoneInfo) -> None:
    """Return when the visitors of each day are counted for `zone`; usually that is one SELECT.

    Raises:
        DatabaseUnavailable: the database cannot be used for it.
    """
    while (await read(engine, _read_state)).get(_ZONE) != zone.key:
        try:
            async with _exclusive(engine) as connection:
                await _count_next_day(connection, zone)
        except (DBAPIError, OSError) as error:
            if not is_passing(error):
                raise DatabaseUnavailable(f"The visitors cannot be counted. ({reason(error)})") from error
            await asyncio.sleep(RETRY_SECONDS)


@asynccontextmanager
async def _exclusive(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection in a transaction that no other process has at the same time; it is committed.

    A row says so, not a named lock: some clusters refuse those, and in others each node knows its own only.
    """
    async with engine.connect() as connection:
        await connection.execution_options(**{SQLITE_BEGIN_IMMEDIATE: True})
        async with connection.begin():
            # Nothing is changed where the row is there, but it is locked.
            await execute(connection, Statement(_upsert_state(engine.dialect.name, changed="name"), (_ZONE, "")))
            yield connection


def _upsert_state(dialect: str, *, changed: str) -> str:
    return upsert(
        dialect,
        table="stats_state",
        keys=("name",),
        updates={changed: "{new}"},
        columns="name, value",
        source="VALUES (%s, %s)",
    )


async def _read_state(connection: AsyncConnection) -> dict[str, str]:
    rows = await connection.execute(select(StatsState.name, StatsState.value))
    return {row.name: row.value for row in rows}


async def _count_next_day(connection: AsyncConnection, zone: ZoneInfo) -> None:
    """Count the next day, which another process may have brought forward, or keep that all are counted."""
    state = await _read_state(connection)
    if state.get(_ZONE) == zone.key:
        return
    counted_zone, _, reached = state.get(_VISITORS, "").partition(" ")
    day = await _next_day(connection, zone, date.fromisoformat(reached) if counted_zone == zone.key else date.min)
    if day is None:
        await _keep(connection, _ZONE, zone.key)
        await _run(connection, "DELETE FROM stats_state WHERE name = %s", _VISITORS)
        logger.info("statistics: the visitors of each day of {} are counted", zone.key)
        return
    # Neither zone's while it is under way: an operator may go back to the first one.
    await _keep(connection, _ZONE, "")
    start, end = day_in_utc(day, zone)
    if await _log_covers(connection, start, end):
        await _count_visitors(connection, day, start, end)
        logger.debug("statistics: counted the visitors of {}", day)
    await _keep(connection, _VISITORS, f"{zone.key} {day + timedelta(days=1)}")


async def _next_day(connection: AsyncConnection, zone: ZoneInfo, earliest: date) -> date | None:
    """The first day from `earliest` on of which the log or the counts know anything."""
    moments, days = select(func.min(RequestLog.created_at)), select(func.min(VisitorCount.day))
    if earliest > date.min:
        start, _ = day_in_utc(earliest, zone)
        moments = moments.where(RequestLog.created_at >= start)
        days = days.where(VisitorCount.day >= earliest)
    moment = await connection.scalar(moments)
    found = [await connection.scalar(days), moment and moment.astimezone(zone).date()]
    return min((day for day in found if day is not None), default=None)


async def _log_covers(connection: AsyncConnection, start: datetime, end: datetime) -> bool:
    """Whether the log still has every request of the day; the totals know how many they were."""
    rows = select(func.count()).where(RequestLog.created_at >= start, RequestLog.created_at < end)
    requests = select(func.coalesce(func.sum(PeriodTotals.requests), 0)).where(
        PeriodTotals.period_start >= start, PeriodTotals.period_start < end
    )
    return await connection.scalar(rows) == int(await connection.scalar(requests) or 0)


async def _count_visitors(connection: AsyncConnection, day: date, start: datetime, end: datetime) -> None:
    await _run(connection, "DELETE FROM stats_visitor WHERE day = %s", day.isoformat())
    await _run(connection, "DELETE FROM stats_visitor_count WHERE day = %s", day.isoformat())
    for kind, column in ((USER, "user_id"), (ADDRESS, "ip_address")):
        await _run(
            connection,
            insert_visitors(
                connection.dialect.name,
                f"SELECT DISTINCT %s, %s, {column} FROM request_log"  # noqa: S608 - one of two columns
                f" WHERE created_at >= %s AND created_at < %s AND {column} IS NOT NULL",
            ),
            day.isoformat(),
            kind,
            timestamp_text(start),
            timestamp_text(end),
        )
    await _run(
        connection,
        "INSERT INTO stats_visitor_count (day, kind, shard, visitors)"
        " SELECT day, kind, 0, COUNT(*) FROM stats_visitor WHERE day = %s GROUP BY day, kind",
        day.isoformat(),
    )


async def _keep(connection: AsyncConnection, name: str, value: str) -> None:
    await _run(connection, _upsert_state(connection.dialect.name, changed="value"), name, value)


async def _run(connection: AsyncConnection, text: str, *parameters: object) -> None:
    await execute(connection, Statement(text, parameters))
