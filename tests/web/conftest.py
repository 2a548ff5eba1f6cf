"""A service for pages: as `make run` starts it, on an empty SQLite database and with the local model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.config.model import ModelSettings
from app.config.settings import Settings
from app.main import create_app
from tests.support.serving import serving


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Its settings."""
    return Settings.model_validate(
        {
            "data_dir": tmp_path / "data",
            "database": {"url": f"sqlite:///{tmp_path}/test.db"},
            "model": ModelSettings.model_validate({"provider": "local", "description_language": "zh"}),
        }
    )


@pytest.fixture
async def service_url(settings: Settings) -> AsyncIterator[str]:
    """Its address."""
    async with serving(create_app(settings)) as url:
        yield url
