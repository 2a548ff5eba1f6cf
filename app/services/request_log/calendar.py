"""The days of STATS_TIMEZONE in `stats_day`, for the views of `sql/init.sql`: a server may not know the zone.

The endpoints do not read them. They are written for two years, and looked at each day.
"""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import between, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import day_in_utc, utc_now
from app.database.statements import Statement, execute, rows_of_placeholders, timestamp_text, upsert
from app.database.tables.statistics import StatsDay
from app.database.transactions import read, write

# Days before today are those of a zone that was configured before: none of them may reach into today's.
DAYS_BEFORE = 3
DAYS_WRITTEN = 800
# With fewer to come they are written anew.
DAYS_NEEDED = 400
# Only the next ones are compared with the rules, which a newer time zone database may have changed.
DAYS_COMPARED = 40
LOOK_SECONDS = 24 * 3600


def _days(first: date, number: int, zone: ZoneInfo) -> dict[date, tuple[datetime, datetime]]:
    return {day: day_in_utc(day, zone) for day in (first + timedelta(days=count) for count in range(number))}


async def keep_calendar(engine: AsyncEngine, zone: ZoneInfo) -> None:
    """Return when `stats_day` knows the days of `zone` from today on; usually that is one SELECT of few rows.

    Raises:
        DatabaseUnavailable, ServerBusy: as every writer.
    """
    first = utc_now().astimezone(zone).date() - timedelta(days=DAYS_BEFORE)
    last_needed = first + timedelta(days=DAYS_NEEDED)
    near = _days(first, DAYS_COMPARED, zone)

    async def find(connection: AsyncConnection) -> dict[date, tuple[object, object]]:
        wanted = or_(between(StatsDay.day, first, max(near)), StatsDay.day == last_needed)
        rows = await connection.execute(select(StatsDay).where(wanted))
        return {row.day: (row.starts_at, row.ends_at) for row in rows}

    known = await read(engine, find)
    if last_needed in known and all(known.get(day) == bounds for day, bounds in near.items()):
        return
    days = _days(first, DAYS_WRITTEN, zone)
    # Processes that start together write the same rows in the same order.
    text = upsert(
        engine.dialect.name,
        table="stats_day",
        keys=("day",),
        updates={"starts_at": "{new}", "ends_at": "{new}"},
        columns="day, starts_at, ends_at",
        source=f"VALUES {rows_of_placeholders(len(days), 3)}",
    )
    values = [
        value
        for day, (start, end) in days.items()
        for value in (day.isoformat(), timestamp_text(start), timestamp_text(end))
    ]

    async def keep(connection: AsyncConnection) -> None:
        await execute(connection, Statement(text, values))

    await write(engine, keep)
