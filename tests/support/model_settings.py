"""Settings of model clients."""

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import SecretStr

from app.clients.base import ModelClient
from app.config.model import ModelSettings
from tests.fakes.model_server import API_KEY

MakeClient = Callable[..., Awaitable[ModelClient]]


def model_settings(provider: str, **fields: Any) -> ModelSettings:
    """Settings from the arguments alone, whatever the environment holds."""
    values: dict[str, Any] = {"api_key": SecretStr(API_KEY), "model": None, "base_url": None, "timeout_seconds": 60.0}
    return ModelSettings(_env_file=None, provider=provider, **values | fields)
