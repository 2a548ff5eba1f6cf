"""Databases for tests: one per worker and kind, made by the migrations, emptied before each test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.config.database import DatabaseSettings
from app.database.engine import SQLITE_BEGIN_IMMEDIATE
from app.database.tables.schema import metadata
from app.database.tables.statistics import StatsDay
from app.services.request_log.recorder import RequestRecorder
from app.services.request_log.rollups import Rollups
from app.services.spool.service import Spool
from tests.support.spools import no_spool


@dataclass(frozen=True, slots=True)
class TestDatabase:
    """An empty database on a test server; `url` names it, `server_url` does not."""

    __test__ = False

    kind: str
    server_url: str
    name: str

    @property
    def url(self) -> str:
        return make_url(self.server_url).set(database=self.name).render_as_string(hide_password=False)

    @property
    def settings(self) -> DatabaseSettings:
        return DatabaseSettings.model_validate({"url": self.url})


@asynccontextmanager
async def admin_engine(server_url: str | URL) -> AsyncIterator[AsyncEngine]:
    """An engine for CREATE and DROP DATABASE."""
    engine = create_async_engine(server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def fresh_database(kind: str, server_url: str) -> AsyncIterator[TestDatabase]:
    """A new, empty database, dropped afterwards."""
    database = TestDatabase(kind, server_url, f"test_{uuid4().hex[:16]}")
    async with admin_engine(server_url) as engine:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(
                f"CREATE DATABASE {database.name} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
            )
        try:
            yield database
        finally:
            async with engine.connect() as connection:
                await connection.exec_driver_sql(f"DROP DATABASE {database.name}")


# All but the calendar, which a service would write anew at each start.
_EMPTIED = {table.name: table for table in reversed(metadata.sorted_tables) if table.name != StatsDay.__tablename__}
# One question, because nearly all of them are empty.
_WITH_ROWS = text(" UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in _EMPTIED))


async def end_connections(admin: AsyncConnection, **those: str) -> None:
    """End the server's connections whose columns of SHOW PROCESSLIST have these values."""
    for row in (await admin.exec_driver_sql("SHOW PROCESSLIST")).mappings().all():
        if those.items() <= row.items():
            # It may have ended by itself meanwhile.
            with suppress(OperationalError):
                await admin.exec_driver_sql(f"KILL {row['Id']}")


async def empty_tables(engine: AsyncEngine) -> None:
    """Delete all rows but the calendar."""
    # SQLite lets no transaction write that has read first while another one has written.
    async with engine.execution_options(**{SQLITE_BEGIN_IMMEDIATE: True}).begin() as connection:
        with_rows = set((await connection.scalars(_WITH_ROWS)).all())
        for name, table in _EMPTIED.items():
            if name in with_rows:
                await connection.execute(delete(table))


def rollups_for(engine: AsyncEngine, zone: str = "UTC") -> Rollups:
    """The rollups of one more process on this database."""
    return Rollups(engine.dialect.name, ZoneInfo(zone))


_open_recorders: list[RequestRecorder] = []


def recorder_on(
    engine: AsyncEngine, *, zone: str = "UTC", spool: Spool | None = None, **options: Any
) -> RequestRecorder:
    """A recorder as a process of its own would have it; it is closed with the test's engine."""
    recorder = RequestRecorder(
        engine, rollups=rollups_for(engine, zone), spool=spool or no_spool(), currency="CNY", **options
    )
    _open_recorders.append(recorder)
    return recorder


async def close_recorders() -> None:
    """Give back the connections that recorders keep."""
    while _open_recorders:
        await _open_recorders.pop().close()


@contextmanager
def lost_answers(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, count: int = 1) -> Iterator[list[int]]:
    """The connection breaks `count` times right after a COMMIT, before its answer; the list has one item for each."""
    lost: list[int] = []
    commit = engine.dialect.do_commit

    def commit_and_lose(connection: Any) -> None:
        commit(connection)
        if len(lost) < count:
            lost.append(len(lost))
            raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(engine.sync_engine.dialect, "do_commit", commit_and_lose)
        yield lost
