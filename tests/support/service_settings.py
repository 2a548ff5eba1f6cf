"""Settings of a service on a test's database, and the databases to choose from."""

from pathlib import Path

import pytest

from app.config.database import DatabaseSettings
from app.config.model import ModelSettings
from app.config.settings import Settings, StatisticsSettings
from app.database.engine import create_engine
from app.database.migrate import migrate
from scripts.mysql_programs import find_mariadb, search_path
from tests.fakes.model_server import FakeModelServer
from tests.servers.databases import Servers

DATABASE_KINDS = ["sqlite", "mysql", *(["mariadb"] if find_mariadb(search_path()) else [])]


def server_url(servers: Servers, kind: str) -> str:
    """The administrator's URL of the server of one kind."""
    if kind == "mysql":
        return servers.mysql_url
    if servers.mariadb_url is None:
        pytest.skip("MariaDB stands in for MySQL already: the tests run on it under that name")
    return servers.mariadb_url


# The first SQLite database with our schema: the next ones are copies of it.
_sqlite_file: list[bytes] = []


async def migrated(database: DatabaseSettings) -> DatabaseSettings:
    """Bring the schema of a database up to date, and return its settings."""
    settings = Settings(database=database)
    url = settings.database_url
    file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
    if file is not None and _sqlite_file and not file.exists():
        file.write_bytes(_sqlite_file[0])
        return database
    is_new = file is not None and not file.exists()
    engine = create_engine(settings)
    await migrate(engine, settings)
    await engine.dispose()
    if file is not None and is_new:
        _sqlite_file.append(file.read_bytes())
    return database


def settings_on(database: DatabaseSettings, model_server: FakeModelServer, tmp_path: Path) -> Settings:
    """Settings of a service on `database`, with the fake model server as its model."""
    return Settings(
        data_dir=tmp_path,
        database=database,
        # Tests choose dates of their own, old ones too.
        statistics=StatisticsSettings.model_validate({"log_retention_days": 0}),
        model=ModelSettings.model_validate(
            {
                "provider": "custom",
                "base_url": model_server.openai_url,
                "api_key": model_server.api_key,
                "model": "test-vision",
                "max_concurrency": 64,
            }
        ),
    )
