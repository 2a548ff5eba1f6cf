"""A Redis server for tests: one per process of the test run, and others for tests that stop and restart theirs."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import redis

from scripts.mysql_debian import exclusive
from scripts.mysql_programs import NoServerError, search_path, server_home
from tests.servers.processes import ProcessFailedError, RunningProcess, free_port, start_process

PORT_ATTEMPTS = 5
INSTALL_TIMEOUT_SECONDS = 900
INSTALL = "apt-get install redis-server (or brew install redis)"


@contextmanager
def running_redis(directory: Path, *options: str, port: int | None = None) -> Iterator[tuple[str, RunningProcess]]:
    """Run a server for the length of the block; yields its URL and its process. It keeps its files in `directory`."""
    program = _program()
    with ExitStack() as stack:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            chosen = port or free_port()
            command = [program, "--port", str(chosen), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
            try:
                process = stack.enter_context(
                    start_process([*command, *options], ready=partial(_answers, chosen), grace_seconds=0)
                )
            except ProcessFailedError as error:
                if port is None and attempt < PORT_ATTEMPTS and "Address already in use" in str(error):
                    continue
                raise
            break
        yield f"redis://127.0.0.1:{chosen}/0", process


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


def _program() -> str:
    """The server program: on the PATH, else installed from Debian's packages where we may."""
    found = shutil.which("redis-server", path=search_path())
    if found is not None:
        return found
    apt_get = shutil.which("apt-get")
    if apt_get is None or os.geteuid() != 0:
        raise NoServerError(f"The tests need a Redis server: {INSTALL}")
    # Its package must not start a server of its own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with exclusive(server_home() / "redis.lock"):
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "redis-server"]):
            done = subprocess.run(  # noqa: S603 - apt-get with arguments of our own
                [apt_get, "-qq", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_SECONDS,
                check=False,
            )
    found = shutil.which("redis-server", path=search_path())
    if found is None:
        raise NoServerError(f"The tests need a Redis server: {INSTALL}. apt-get said: {done.stderr[-500:]}")
    return found


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            # With a password set it refuses, but it is there.
            return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
