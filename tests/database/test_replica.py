"""Statistics come from the replica, which is another server with other rows here, and from nowhere else if it is away.

The servers are real; nothing replicates between them, so the rows tell who was asked.
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from loguru import logger
from sqlalchemy import insert
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.config.settings import Settings, StatisticsSettings
from app.database import replica as replica_module
from app.database.engine import create_engine, create_replica_engine
from app.database.replica import Replica
from app.database.tables.statistics import CacheTotals
from app.errors import DatabaseUnavailable
from app.main import create_app
from app.runtime.capacity import pool_limits, replica_pool_limits
from app.services.statistics.service import StatsService
from tests.fakes.model_server import FakeModelServer
from tests.servers.databases import Servers
from tests.servers.processes import free_port
from tests.support.classify import photo, upload
from tests.support.databases import fresh_database
from tests.support.own_server import OwnServer
from tests.support.service_settings import migrated, settings_on
from tests.support.serving import serving

ON_MAIN, ON_REPLICA = 5, 7


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> OwnServer:
    return OwnServer(tmp_path_factory.mktemp("second"))


def settings_of(url: str, read_host: str | None) -> Settings:
    return Settings(database=DatabaseSettings.model_validate({"url": url, "read_host": read_host}))


async def fill(url: str, images: int) -> None:
    """Make the tables, with a sum that tells this server from others."""
    database = await migrated(DatabaseSettings.model_validate({"url": url}))
    engine = create_engine(Settings(database=database))
    try:
        async with engine.begin() as connection:
            await connection.execute(insert(CacheTotals).values(shard=1, images=images, hits=images))
    finally:
        await engine.dispose()


@asynccontextmanager
async def replica_of(main: AsyncEngine, settings: Settings) -> AsyncIterator[Replica]:
    engine = create_replica_engine(settings)
    assert engine is not None
    try:
        yield Replica(main, engine)
    finally:
        await engine.dispose()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged."""
    collected: list[str] = []
    handler = logger.add(lambda message: collected.append(message.record["message"]), level="INFO")
    yield collected
    logger.remove(handler)


@pytest.fixture
async def main_database(servers: Servers) -> AsyncIterator[str]:
    """The URL of a filled database on the server that is not the replica."""
    async with fresh_database("mysql", servers.mysql_url) as database:
        await fill(database.url, ON_MAIN)
        yield database.url


async def test_figures_come_from_the_replica_while_it_is_there(
    second: OwnServer, main_database: str, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(replica_module, "RETRY_SECONDS", 0.2)
    settings = settings_of(main_database, f"127.0.0.1:{second.port}")
    engine = create_engine(settings)
    try:
        async with replica_of(engine, settings) as replica:
            stats = StatsService(engine, StatisticsSettings(), replica, currency="CNY")

            async def images() -> int:
                return (await stats.cache_efficiency()).total_cached_images

            with second.running() as process:
                copy = make_url(main_database).set(port=second.port)
                await fill(copy.render_as_string(hide_password=False), ON_REPLICA)
                assert await images() == ON_REPLICA
                assert await replica.is_there()
                process.send_signal(signal.SIGKILL)
                assert await asyncio.to_thread(process.wait, 10) is not None
                assert [await images() for _ in range(3)] == [ON_MAIN] * 3
                assert not await replica.is_there()
            with second.running():
                await asyncio.sleep(0.3)
                assert await images() == ON_REPLICA
                assert await replica.is_there()
    finally:
        await engine.dispose()
    told = [line for line in lines if "database" not in line]
    assert len(told) == 2, told
    assert "the read replica cannot be used" in told[0]
    assert told[1] == "the read replica is used again"


async def test_a_replica_that_says_nothing_holds_nobody_up(main_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = settings_of(main_database, f"127.0.0.1:{silent.getsockname()[1]}")
        engine = create_engine(settings)
        try:
            async with replica_of(engine, settings) as replica:
                stats = StatsService(engine, StatisticsSettings(), replica, currency="CNY")
                async with asyncio.timeout(120):
                    assert (await stats.cache_efficiency()).total_cached_images == ON_MAIN
                # It is not asked again so soon.
                monkeypatch.setattr(replica_module, "TIMEOUT_SECONDS", 1000)
                async with asyncio.timeout(120):
                    assert (await stats.cache_efficiency()).total_cached_images == ON_MAIN
                    assert not await replica.is_there()
        finally:
            await engine.dispose()


async def test_a_replica_without_our_tables_is_none(
    main_database: str, servers: Servers, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """A replica that is only being set up, or one that is a migration behind. One line tells of it, not one a try."""
    monkeypatch.setattr(replica_module, "RETRY_SECONDS", 0.0)
    if servers.mariadb_url is None:
        pytest.skip("a second server is needed that has no database of ours")
    settings = settings_of(main_database, f"127.0.0.1:{make_url(servers.mariadb_url).port}")
    engine = create_engine(settings)
    try:
        async with replica_of(engine, settings) as replica:
            stats = StatsService(engine, StatisticsSettings(), replica, currency="CNY")
            for _ in range(3):
                assert (await stats.cache_efficiency()).total_cached_images == ON_MAIN
            assert not await replica.is_there()
    finally:
        await engine.dispose()
    assert len(lines) == 1, lines
    assert "Unknown database" in lines[0]
    assert lines[0].endswith("statistics come from the main server")


async def test_the_service_says_where_its_figures_come_from(
    main_database: str, model_server: FakeModelServer, tmp_path: Path
) -> None:
    database = DatabaseSettings.model_validate({"url": main_database})
    nobody = f"127.0.0.1:{free_port()}"
    port = make_url(main_database).port
    cases = [(None, None), (f"127.0.0.1:{port}", "connected"), ("127.0.0.1", "connected"), (nobody, "disconnected")]
    for read_host, said in cases:
        settings = settings_on(database.model_copy(update={"read_host": read_host}), model_server, tmp_path)
        async with (
            serving(create_app(settings)) as url,
            httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api,
        ):
            health = (await api.get("/health")).json()
            assert (health["status"], health["database"], health["read_replica"]) == ("healthy", "connected", said)
            answer: dict[str, Any] = (await upload(api, photo(3))).json()
            found = await api.get(f"/requests/{answer['request_id']}")
            assert found.status_code == 200
            assert (await api.get("/stats/today")).json()["data"]["total_requests"] > 0


def test_the_replica_has_connections_of_its_own_to_share() -> None:
    settings = settings_of("mysql://u@main/d", "replica").model_copy(update={"workers": 46})
    assert pool_limits(settings) == (3, 0)
    assert replica_pool_limits(settings) == (3, 0)
    assert replica_pool_limits(settings.model_copy(update={"workers": None})) == (10, 5)


@pytest.mark.parametrize(
    ("read_host", "host", "port"),
    [("replica", "replica", 3307), ("replica:3310", "replica", 3310), ("[::1]:3310", "::1", 3310)],
)
def test_the_replica_differs_in_its_address_only(read_host: str, host: str, port: int) -> None:
    settings = settings_of("mysql://u:p@main:3307/d", read_host)
    url = settings.database.read_url(settings.database_url)
    assert url is not None
    assert (url.host, url.port) == (host, port)
    assert (url.username, url.password, url.database) == ("u", "p", "d")


@pytest.mark.parametrize(
    "wrong", ["u:secret@replica", "replica:0", "replica:99999", "replica/d", "mysql://replica", ":"]
)
def test_what_is_no_address_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(ValueError, match="host or host:port") as caught:
        settings_of("mysql://u@main/d", wrong)
    assert "secret" not in str(caught.value)


def test_sqlite_has_no_replica() -> None:
    with pytest.raises(DatabaseUnavailable, match="MYSQL_READ_HOST"):
        create_replica_engine(settings_of("sqlite:///x.db", "replica"))
