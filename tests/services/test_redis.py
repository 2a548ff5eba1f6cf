"""The features of a process share one client of Redis, and one pair of lines for each outage."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.database.engine import location
from app.runtime.background import running
from app.services.cache import redis as redis_tier
from app.services.cache.redis import RedisCache
from app.services.events import redis_signal
from app.services.events.redis_signal import RedisSignal, Topic
from app.services.redis import RedisClient, open_redis
from tests.servers.processes import free_port
from tests.servers.redis import running_redis
from tests.support.event_streams import until


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines that are logged during the test."""
    lines: list[str] = []
    number = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(number)


async def test_an_outage_is_logged_once_for_all_features(
    tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_tier, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(redis_signal, "RETRY_SECONDS", 0.01)
    port = free_port()
    client = RedisClient(f"redis://127.0.0.1:{port}/0", key_space="test", timeout_seconds=10.0)
    cache, signal = RedisCache(client), RedisSignal(client)
    signal.send(Topic.TASK_EVENTS)
    async with running(signal.run(), name="signal"):
        for _ in range(3):
            await cache.connect()
            await asyncio.sleep(0.05)
        assert log == ["WARNING Redis is out of reach (ConnectionError)\n"]
        with running_redis(tmp_path, port=port):
            await until(lambda: signal.in_contact)
            await cache.connect()
            assert cache.in_contact
            assert log[1:] == ["INFO Redis is back\n"]
    await signal.close()
    await client.close()


async def test_there_is_no_client_without_an_address() -> None:
    async with open_redis(Settings()) as client:
        assert client is None


def test_each_database_has_keys_of_its_own(tmp_path: Path) -> None:
    urls = [
        f"sqlite:///{tmp_path}/one.db",
        f"sqlite:///{tmp_path}/two.db",
        "mysql://user:secret@one:3306/name",
        "mysql://user:secret@two:3306/name",
        "mysql://user:secret@one:3307/name",
        "mysql://user:secret@one:3306/other",
    ]
    spaces = [location(Settings(database=DatabaseSettings.model_validate({"url": url})).database_url) for url in urls]
    assert len(set(spaces)) == len(urls)
    assert "secret" not in "".join(spaces)
