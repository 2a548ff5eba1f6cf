"""Fixtures: SQL runs on SQLite, on a real MySQL server, and on MariaDB where installed; the rest on MySQL."""

import os
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from functools import cache, partial
from pathlib import Path

import httpcore2
import httpx2
import pytest
from loguru._better_exceptions import ExceptionFormatter
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database import engine as database_engine
from app.database import transactions
from app.database.engine import create_engine
from app.database.tables.api_keys import ApiKey
from app.main import create_app
from app.services import redis
from app.services.accounts import passwords
from tests.fakes.model_server import FakeModelServer, running_model_server
from tests.servers.databases import Servers
from tests.support.databases import TestDatabase, close_recorders, empty_tables, fresh_database
from tests.support.service_settings import DATABASE_KINDS, migrated, server_url, settings_on
from tests.support.serving import serving

pytest_plugins = ["tests.servers.plugin", "tests.servers.redis", "tests.servers.s3", "tests.servers.browser"]

# loguru asks for all folders of Python's libraries each time that logs get a place, which takes as long as a request.
ExceptionFormatter._get_lib_dirs = staticmethod(cache(ExceptionFormatter._get_lib_dirs))  # type: ignore[method-assign]
# Clients in this process trust no server but by a certificate that a test gives them: to load those of this machine for
# each client takes as long as many a test.
httpcore2.default_ssl_context = lambda **_: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# The database layer's tests run on every kind of database, and so does the specification's session with the whole API.
# The services' run on SQLite and MySQL; MariaDB gets the same text of each statement as MySQL, so one module of each
# service suffices there. What stands above SQL runs on the kind that services run on.
ON_EVERY_KIND = re.compile(
    r"tests/(database/|services/\w+/test_(service|store|recorder)\.py|documentation/test_specification\.py)"
)
ON_TWO_KINDS = "tests/services/"


def kinds_for(module: str) -> list[str]:
    """The kinds of database that the tests of a module run on."""
    if ON_EVERY_KIND.match(module):
        return DATABASE_KINDS
    return ["sqlite", "mysql"] if module.startswith(ON_TWO_KINDS) else ["mysql"]


@pytest.fixture(scope="session")
def database_kind(request: pytest.FixtureRequest) -> str:
    """sqlite, mysql or mariadb (`pytest_generate_tests`)."""
    return str(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that needs a database on the kinds for its folder, unless it names the kinds itself."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "database_kind" not in metafunc.fixturenames or any("database_kind" in mark.args[0] for mark in marks):
        return
    metafunc.parametrize("database_kind", kinds_for(metafunc.definition.nodeid), indirect=True, scope="session")


@pytest.fixture(scope="session")
async def migrated_database(
    database_kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DatabaseSettings]:
    """A database with our schema, made by the migrations once per kind and worker."""
    if database_kind == "sqlite":
        path = tmp_path_factory.mktemp("sqlite") / "test.db"
        yield await migrated(DatabaseSettings.model_validate({"url": f"sqlite:///{path}"}))
        return
    url = server_url(request.getfixturevalue("servers"), database_kind)
    async with fresh_database(database_kind, url) as database:
        yield await migrated(database.settings)


@pytest.fixture
async def empty_database(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of a database in which there is nothing yet."""
    if database_kind == "sqlite":
        yield Settings(
            data_dir=tmp_path, database=DatabaseSettings.model_validate({"url": f"sqlite:///{tmp_path}/new.db"})
        )
        return
    url = server_url(request.getfixturevalue("servers"), database_kind)
    async with fresh_database(database_kind, url) as database:
        yield Settings(data_dir=tmp_path, database=database.settings)


@pytest.fixture(params=DATABASE_KINDS[1:])
async def mysql_database(servers: Servers, request: pytest.FixtureRequest) -> AsyncIterator[TestDatabase]:
    """A migrated database on a server that speaks MySQL."""
    async with fresh_database(request.param, server_url(servers, request.param)) as database:
        await migrated(database.settings)
        yield database


@pytest.fixture
def model_server() -> Iterator[FakeModelServer]:
    """A model server that answers as the scripts say."""
    with running_model_server() as server:
        yield server


@pytest.fixture
def settings(migrated_database: DatabaseSettings, model_server: FakeModelServer, tmp_path: Path) -> Settings:
    """Settings of a service on an empty database, with the fake model server as its model."""
    return settings_on(migrated_database, model_server, tmp_path)


@pytest.fixture
async def engine(migrated_database: DatabaseSettings) -> AsyncIterator[AsyncEngine]:
    """An engine on the test's database, whose tables are empty."""
    engine = create_engine(Settings(database=migrated_database))
    try:
        await empty_tables(engine)
        yield engine
    finally:
        await close_recorders()
        # A key that a test leaves would close the API for the tests that do not empty the tables.
        async with engine.begin() as connection:
            await connection.execute(delete(ApiKey))
        await engine.dispose()


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed by Argon2 as ever, but with less work: people sign up in every other test."""
    monkeypatch.setattr(passwords, "Argon2Hasher", partial(Argon2Hasher, time_cost=1, memory_cost=1024))


@pytest.fixture(autouse=True)
def patient_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process wait for its database and Redis longer than a request may: the machine may be busy.

    Tests of these times have a fixture of the same name in their module or folder, which leaves the times as they are.
    """
    monkeypatch.setattr(transactions, "TOTAL_TIMEOUT_SECONDS", 100.0)
    monkeypatch.setattr(database_engine, "POOL_TIMEOUT_SECONDS", 90)
    monkeypatch.setattr(database_engine, "SQLITE_BUSY_TIMEOUT_SECONDS", 15)
    monkeypatch.setattr(redis, "TIMEOUT_SECONDS", 30.0)


@pytest.fixture
async def service_url(settings: Settings, engine: AsyncEngine) -> AsyncIterator[str]:
    """The address of a running service."""
    async with serving(create_app(settings)) as url:
        yield url


@pytest.fixture
async def api(service_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a running service, over real HTTP."""
    async with httpx2.AsyncClient(base_url=f"{service_url}/api/v1", timeout=120) as client:
        yield client


@pytest.fixture
async def service(service_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the same service, for the paths of the signed-in side."""
    async with httpx2.AsyncClient(base_url=service_url, timeout=120) as client:
        yield client


@pytest.fixture
async def environment(model_server: FakeModelServer, tmp_path: Path) -> dict[str, str]:
    """Variables of a service with its files in `tmp_path`/data, an empty database there, and the fake model."""
    data = tmp_path / "data"
    data.mkdir()
    await migrated(DatabaseSettings.model_validate({"url": f"sqlite:///{data}/image-classifier.db"}))
    return {
        "PATH": os.environ["PATH"],
        "APP_HOST": "127.0.0.1",
        "DATA_DIR": str(data),
        "LOG_DIR": str(tmp_path / "logs"),
        "TMPDIR": str(tmp_path / "tmp"),
        "LLM_PROVIDER": "custom",
        "LLM_BASE_URL": model_server.openai_url,
        "LLM_API_KEY": str(model_server.api_key),
        "LLM_MODEL": "test-vision",
        "WEB_CONCURRENCY": "1",
    }
