"""Real clients against a fake model server; pauses between attempts are shortened, everything else is as in service."""

import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from PIL import Image

from app.clients import pacing
from app.clients.base import ModelClient, PreparedPhoto
from app.clients.registry import create_model_client
from app.config.model import ModelSettings
from tests.fakes.model_server import FakeModelServer, fake_model_server
from tests.support.model_settings import MakeClient, model_settings


def settings_for(server: FakeModelServer, provider: str, **fields: Any) -> ModelSettings:
    """Settings that send `provider` to the fake server."""
    values: dict[str, Any] = {"base_url": server.anthropic_url if provider == "claude" else server.openai_url}
    if provider not in {"openai", "claude"}:
        values["model"] = "test-vision"
    return model_settings(provider, **values | fields)


@pytest.fixture(scope="session")
def photo() -> PreparedPhoto:
    image = Image.linear_gradient("L").convert("RGB").resize((320, 240))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return PreparedPhoto(buffer.getvalue())


@pytest.fixture
async def server() -> AsyncIterator[FakeModelServer]:
    async with fake_model_server() as running:
        yield running
    assert running.violations == []


@pytest.fixture
async def make_client(server: FakeModelServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeClient]:
    """Give a function that creates and starts a client by provider; all are closed after the test."""
    monkeypatch.setattr(pacing, "BACKOFF_FIRST_SECONDS", 0.0)
    async with AsyncExitStack() as stack:

        async def make(provider: str, **fields: Any) -> ModelClient:
            client = create_model_client(settings_for(server, provider, **fields))
            stack.push_async_callback(client.close)
            await client.start()
            return client

        yield make
