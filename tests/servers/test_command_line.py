"""The command line gives a developer a server that stays, keeps its data, and can be stopped."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from scripts.mysql_programs import server_home
from tests.servers.databases import Servers
from tests.servers.processes import free_port, start_process
from tests.support.server_queries import own_servers, query, takes_connections

COMMAND_LINE = Path(__file__).resolve().parents[2] / "scripts/mysql_server.py"


@pytest.fixture
def home(servers: Servers) -> Iterator[Path]:
    """A cache with the programs and templates of the real one, but without its standing server."""
    assert servers.mysql_url
    # Short, because a socket's path is; pytest's own directories are too deep.
    directory = Path(tempfile.mkdtemp(prefix="home-"))
    for shared in ("debian-amd64", "debian-arm64", "templates"):
        if (server_home() / shared).exists():
            (directory / shared).symlink_to(server_home() / shared)
    yield directory
    shutil.rmtree(directory)


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMMAND_LINE), *arguments]
    environment = {**os.environ, "MYSQL_SERVER_HOME": str(home), **environment}
    return subprocess.run(  # noqa: S603 - our own script
        command, env=environment, cwd=home, capture_output=True, text=True, check=False
    )


@contextlib.contextmanager
def standing(home: Path, port: int) -> Iterator[str]:
    """Start the server that stays, under a supervisor that ends it should the test not come to that."""
    said = home / "said"
    said.unlink(missing_ok=True)
    script = f'"$@" > {said}.partial; mv {said}.partial {said}; exec sleep 600'
    command = ["/bin/sh", "-c", script, "sh", sys.executable, str(COMMAND_LINE), "start", "--port", str(port)]
    environment = {**os.environ, "MYSQL_SERVER_HOME": str(home)}
    with start_process(command, ready=said.exists, env=environment, ready_within_seconds=180):
        yield said.read_text().strip()


@own_servers
async def test_a_server_stays_until_it_is_stopped_and_keeps_its_data(home: Path) -> None:
    port = free_port()
    with standing(home, port) as url:
        assert url == f"mysql+aiomysql://root@127.0.0.1:{port}/"
        await query(url, "CREATE DATABASE kept")
        # A commit of data that stays does wait for the disk.
        assert await query(url, "SELECT @@innodb_flush_log_at_trx_commit") == (1,)
        again = run(home, "start", "--port", str(free_port()))
        assert (again.returncode, again.stdout.strip()) == (0, url)
        assert run(home, "stop").stdout == "stopped\n"
        assert not takes_connections(url)
        assert run(home, "stop").stdout == "no server was running\n"
    with standing(home, port) as url:
        assert await query(url, "SHOW DATABASES LIKE 'kept'") == ("kept",)
        assert run(home, "stop").stdout == "stopped\n"


@own_servers
def test_a_port_in_use_is_reported_with_the_servers_own_words(home: Path, servers: Servers) -> None:
    port = make_url(servers.mysql_url).port
    done = run(home, "start", "--port", str(port))
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert run(home, "stop").stdout == "no server was running\n"


@own_servers
def test_the_servers_are_named_and_ready(home: Path, servers: Servers) -> None:
    which, fetch = run(home, "which"), run(home, "fetch")
    for done in (which, fetch):
        assert done.returncode == 0, done.stderr
        assert servers.mysql_version in done.stdout
        assert servers.mariadb_version is None or servers.mariadb_version in done.stdout


@pytest.mark.parametrize("command", ["which", "fetch"])
def test_a_given_server_is_not_looked_for_nor_shown(command: str, tmp_path: Path) -> None:
    done = run(tmp_path, command, TEST_MYSQL_URL="mysql+aiomysql://root:s3cret@db.example/")
    assert done.returncode == 0
    assert "TEST_MYSQL_URL is set" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
