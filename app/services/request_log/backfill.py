"""Rollups for a database that has a log but no rollups yet, or whose STATS_TIMEZONE was changed.

Nobody writes meanwhile: a process comes here before it serves, and goes on only when all is built. The work is done in
steps of some seconds, each a transaction that also keeps how far it has come, so a process that is stopped halfway
loses nothing, and those that start together share the steps.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date, timedelta
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
from app.services.request_log.rollups import ADDRESS, USER, insert_visitors, upsert_periods, upsert_users

# Some seconds of work: so much is lost at most when a process is stopped.
ROWS_PER_STEP = 250_000
RETRY_SECONDS = 1.0
# Names in `stats_state`: how far the totals are built (nothing, the last id of the log, or COMPLETE), the zone for
# which the visitors are built, and how far they are for another one ("zone day").
_TOTALS = "totals"
_ZONE = "time_zone"
_VISITORS = "visitors"
_COMPLETE = "complete"
_ROLLUPS = ("stats_period", "stats_user", "stats_visitor", "stats_visitor_count", "stats_cache")

_PERIOD_START = {
    "sqlite": (
        "SUBSTR(created_at, 1, 14) || CASE WHEN SUBSTR(created_at, 15, 2) < '15' THEN '00'"
        " WHEN SUBSTR(created_at, 15, 2) < '30' THEN '15' WHEN SUBSTR(created_at, 15, 2) < '45' THEN '30'"
        " ELSE '45' END || ':00.000000'"
    ),
    "mysql": "created_at - INTERVAL (MOD(MINUTE(created_at), 15) * 60 + SECOND(created_at)) SECOND",
}
# Whole ten-thousandths, because SQLite would sum binary fractions.
_CONFIDENCE = {
    "sqlite": "CAST(ROUND(confidence * 10000) AS INTEGER)",
    "mysql": "ROUND(confidence * 10000)",
}
_HITS = "SUM(CASE WHEN from_cache = 1 THEN 1 ELSE 0 END)"


async def build_rollups(engine: AsyncEngine, zone: ZoneInfo) -> None:
    """Return when the rollups agree with the log and the visitors with `zone`; usually that is one SELECT.

    Raises:
        DatabaseUnavailable: the database cannot be used for it.
    """
    while not _is_built(await read(engine, _read_state), zone):
        try:
            async with _only_builder(engine) as connection:
                await _Builder(connection, zone).step(await _read_state(connection))
        except (DBAPIError, OSError) as error:
            if not is_passing(error):
                raise DatabaseUnavailable(f"The statistics cannot be built. ({reason(error)})") from error
            await asyncio.sleep(RETRY_SECONDS)


@asynccontextmanager
async def _only_builder(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection in a transaction that no other process has at the same time; it is committed.

    A row says so, not a named lock: some clusters refuse those, and in others each node knows its own only.
    """
    async with engine.connect() as connection:
        await connection.execution_options(**{SQLITE_BEGIN_IMMEDIATE: True})
        async with connection.begin():
            # Nothing is changed where the row is there, but it is locked.
            await execute(connection, Statement(_upsert_state(engine.dialect.name, changed="name"), (_TOTALS, "")))
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


async def totals_are_built(engine: AsyncEngine) -> bool:
    """Whether all rows of the log are summed up, so that old ones may be deleted.

    Raises:
        DatabaseUnavailable: the database cannot be used.
    """
    return (await read(engine, _read_state)).get(_TOTALS) == _COMPLETE


def _is_built(state: Mapping[str, str], zone: ZoneInfo) -> bool:
    return state.get(_TOTALS) == _COMPLETE and state.get(_ZONE) == zone.key


async def _read_state(connection: AsyncConnection) -> dict[str, str]:
    rows = await connection.execute(select(StatsState.name, StatsState.value))
    return {row.name: row.value for row in rows}


class _Builder:
    """One step at a time, in the transaction of `connection`."""

    def __init__(self, connection: AsyncConnection, zone: ZoneInfo) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._expressions = "sqlite" if self._dialect == "sqlite" else "mysql"
        self._zone = zone

    async def step(self, state: Mapping[str, str]) -> None:
        """Do what comes next after `state`, which another process may have brought forward."""
        if state.get(_TOTALS) != _COMPLETE:
            await self._build_totals(state.get(_TOTALS))
        elif state.get(_ZONE) != self._zone.key:
            zone, _, day = state.get(_VISITORS, "").partition(" ")
            await self._build_visitors(date.fromisoformat(day) if zone == self._zone.key else date.min)

    async def _build_totals(self, built_until: str | None) -> None:
        if not built_until:
            for table in _ROLLUPS:
                await self._run(f"DELETE FROM {table}")  # noqa: S608 - our own tables
            await self._run(
                "INSERT INTO stats_cache (shard, images, hits)"
                " SELECT 0, COUNT(*), COALESCE(SUM(hit_count), 0) FROM image_classification_cache"
            )
        last_id = int(built_until or 0)
        first = await self._connection.scalar(select(func.min(RequestLog.id)).where(RequestLog.id > last_id))
        if first is None:
            await self._keep(_TOTALS, _COMPLETE)
            return
        until = first + ROWS_PER_STEP - 1
        rows = "FROM request_log WHERE id >= %s AND id <= %s"
        await self._run(
            upsert_periods(
                self._dialect,
                f"SELECT {_PERIOD_START[self._expressions]}, category, 0, COUNT(*), {_HITS},"
                " COUNT(processing_time_ms), COALESCE(SUM(processing_time_ms), 0),"
                f" SUM({_CONFIDENCE[self._expressions]}) {rows} GROUP BY 1, 2",
            ),
            first,
            until,
        )
        await self._run(
            upsert_users(
                self._dialect,
                f"SELECT user_id, COUNT(*), {_HITS}, MIN(created_at), MAX(created_at) {rows}"
                " AND user_id IS NOT NULL GROUP BY user_id",
            ),
            first,
            until,
        )
        await self._keep(_TOTALS, str(until))
        logger.info("statistics: summed up the log rows {} to {}", first, until)

    async def _build_visitors(self, earliest: date) -> None:
        day = await self._next_day(earliest)
        if day is None:
            await self._keep(_ZONE, self._zone.key)
            await self._run("DELETE FROM stats_state WHERE name = %s", _VISITORS)
            logger.info("statistics: the visitors of each day of {} are counted", self._zone.key)
            return
        if await self._log_covers(day):
            await self._count_visitors(day)
            logger.debug("statistics: counted the visitors of {}", day)
        await self._keep(_VISITORS, f"{self._zone.key} {day + timedelta(days=1)}")

    async def _next_day(self, earliest: date) -> date | None:
        """The first day from `earliest` on of which the log or the counts know anything."""
        moments, days = select(func.min(RequestLog.created_at)), select(func.min(VisitorCount.day))
        if earliest > date.min:
            start, _ = day_in_utc(earliest, self._zone)
            moments = moments.where(RequestLog.created_at >= start)
            days = days.where(VisitorCount.day >= earliest)
        moment = await self._connection.scalar(moments)
        found = [await self._connection.scalar(days), moment and moment.astimezone(self._zone).date()]
        return min((day for day in found if day is not None), default=None)

    async def _log_covers(self, day: date) -> bool:
        """Whether the log still has every request of the day; the totals know how many they were."""
        start, end = day_in_utc(day, self._zone)
        rows = select(func.count()).where(RequestLog.created_at >= start, RequestLog.created_at < end)
        requests = select(func.coalesce(func.sum(PeriodTotals.requests), 0)).where(
            PeriodTotals.period_start >= start, PeriodTotals.period_start < end
        )
        return await self._connection.scalar(rows) == int(await self._connection.scalar(requests) or 0)

    async def _count_visitors(self, day: date) -> None:
        start, end = day_in_utc(day, self._zone)
        await self._run("DELETE FROM stats_visitor WHERE day = %s", day.isoformat())
        await self._run("DELETE FROM stats_visitor_count WHERE day = %s", day.isoformat())
        for kind, column in ((USER, "user_id"), (ADDRESS, "ip_address")):
            await self._run(
                insert_visitors(
                    self._dialect,
                    f"SELECT DISTINCT %s, %s, {column} FROM request_log"  # noqa: S608 - one of two columns
                    f" WHERE created_at >= %s AND created_at < %s AND {column} IS NOT NULL",
                ),
                day.isoformat(),
                kind,
                timestamp_text(start),
                timestamp_text(end),
            )
        await self._run(
            "INSERT INTO stats_visitor_count (day, kind, shard, visitors)"
            " SELECT day, kind, 0, COUNT(*) FROM stats_visitor WHERE day = %s GROUP BY day, kind",
            day.isoformat(),
        )

    async def _keep(self, name: str, value: str) -> None:
        await self._run(_upsert_state(self._dialect, changed="value"), name, value)

    async def _run(self, text: str, *parameters: object) -> None:
        await execute(self._connection, Statement(text, parameters))
