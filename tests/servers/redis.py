"""A Redis server for tests: one per process of the test run, and others for tests that stop and restart theirs."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.processes import ProcessFailedError, RunningProcess, free_port, start_process
from tests.servers.programs import get_program

PORT_ATTEMPTS = 5


@contextmanager
def running_redis(directory: Path, *options: str, port: int | None = None) -> Iterator[tuple[str, RunningProcess]]:
    """Run a server for the length of the block; yields its URL and its process. It keeps its files in `directory`."""
    password = options[options.index("--requirepass") + 1] if "--requirepass" in options else None
    program = get_program("redis-server", "redis-server", elsewhere="brew install redis")
    with ExitStack() as stack:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            chosen = port or free_port()
            command = [program, "--port", str(chosen), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
            try:
                process = stack.enter_context(
                    start_process([*command, *options], ready=partial(_answers, chosen, password), grace_seconds=0)
                )
            except ProcessFailedError as error:
                if port is None and attempt < PORT_ATTEMPTS and "Address already in use" in str(error):
                    continue
                raise
            break
        yield f"redis://127.0.0.1:{chosen}/0", process


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """The URL of a server that takes every connection and never says a word."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        for writer in writers:
            writer.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that lives as long as this process of the test run."""
    with running_redis(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


def _answers(port: int, password: str | None) -> bool:
    try:
        # Without its password, a server that still loads its file would only say that it wants one.
        with redis.Redis(
            host="127.0.0.1", port=port, password=password, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        ) as client:
            return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False
