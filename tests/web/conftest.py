"""A service for pages: as `make run` starts it, on an empty SQLite database and with the local model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.config.database import DatabaseSettings
from app.config.model import ModelSettings
from app.config.settings import Settings
from app.main import create_app
from tests.fakes.model_server import FakeModelServer
from tests.support.service_settings import migrated
from tests.support.serving import serving


@pytest.fixture
async def settings(tmp_path: Path) -> Settings:
    """Its settings."""
    return Settings.model_validate(
        {
            "data_dir": tmp_path / "data",
            "database": await migrated(DatabaseSettings.model_validate({"url": f"sqlite:///{tmp_path}/test.db"})),
            "model": ModelSettings.model_validate({"provider": "local", "description_language": "zh"}),
        }
    )


@pytest.fixture
def paid_settings(settings: Settings, model_server: FakeModelServer) -> Settings:
    """The same with a model that costs money."""
    model = {"provider": "custom", "base_url": model_server.openai_url, "model": "test-vision"}
    paid = ModelSettings.model_validate(model | {"api_key": model_server.api_key})
    return settings.model_copy(update={"model": paid})


@pytest.fixture
async def service_url(settings: Settings) -> AsyncIterator[str]:
    """Its address."""
    async with serving(create_app(settings)) as url:
        yield url
