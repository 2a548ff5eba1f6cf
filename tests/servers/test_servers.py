"""The servers of a test run are real, shared by its processes, and gone after it, whichever way it ends."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiomysql
import pytest
from sqlalchemy.engine import make_url

from scripts.mysql_instance import ServerStartError, Setup, greeting, server_command, socket_path
from scripts.mysql_programs import NoServerError, ServerProgram
from tests.servers.certificates import write_certificates
from tests.servers.databases import ServerRun, Servers, start_servers
from tests.servers.processes import ProcessFailedError, free_port, start_process
from tests.servers.waiting import is_running, wait_until
from tests.support.server_queries import own_servers, query, takes_connections

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# A test run of its own: this project's settings, plugins and fixtures are for its own tests.
PYTEST = (sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "tests.servers.plugin", "-q")
PYTHONPATH = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
PYTEST_ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


async def test_mysql_answers_and_is_what_it_is_said_to_be(servers: Servers) -> None:
    (version, comment) = await query(servers.mysql_url, "SELECT VERSION(), @@version_comment")
    assert version.partition("-")[0] == servers.mysql_version.partition("-")[0]
    assert servers.mysql_is_real == ("mariadb" not in (version + comment).lower())


async def test_mariadb_answers_where_it_is_installed(servers: Servers) -> None:
    if servers.mariadb_url is None:
        pytest.skip("MariaDB is not installed, or stands in for MySQL")
    (version,) = await query(servers.mariadb_url, "SELECT VERSION()")
    assert "MariaDB" in version
    assert version == servers.mariadb_version


@own_servers
async def test_a_user_with_a_password_logs_in_as_on_a_production_server(servers: Servers) -> None:
    assert servers.mysql_password_url is not None
    (user,) = await query(servers.mysql_password_url, "SELECT CURRENT_USER()")
    assert user == "classifier@localhost"
    if servers.mysql_is_real:
        sql = "SELECT plugin FROM mysql.user WHERE user = 'classifier'"
        assert await query(servers.mysql_url, sql) == ("caching_sha2_password",)
    wrong = make_url(servers.mysql_password_url).set(password="wrong")
    with pytest.raises(aiomysql.OperationalError, match="Access denied"):
        await query(wrong.render_as_string(hide_password=False), "SELECT 1")


@own_servers
async def test_tls_works_with_the_authority_and_its_host_names(servers: Servers, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=servers.mysql_ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for host in ("127.0.0.1", "localhost"):
        url = make_url(servers.mysql_password_url or "").set(host=host).render_as_string(hide_password=False)
        (_, cipher) = await query(url, "SHOW STATUS LIKE 'Ssl_cipher'", context)
        assert cipher
    (_, cipher) = await query(servers.mysql_url, "SHOW STATUS LIKE 'Ssl_cipher'")
    assert not cipher
    write_certificates(tmp_path)
    with pytest.raises(aiomysql.OperationalError) as caught:
        await query(servers.mysql_url, "SELECT 1", ssl.create_default_context(cafile=tmp_path / "ca.pem"))
    assert isinstance(caught.value.__cause__ or caught.value.__context__, ssl.SSLCertVerificationError)


@own_servers
async def test_nothing_waits_for_the_disk_unless_it_is_asked_for(servers: Servers, tmp_path: Path) -> None:
    sql = "SELECT @@innodb_flush_log_at_trx_commit, @@bind_address, @@character_set_server"
    assert await query(servers.mysql_url, sql) == (0, "127.0.0.1", "utf8mb4")
    program = ServerProgram(("mysqld",), "9.7.4", is_mysql=True)
    relaxed = set(server_command(program, tmp_path, 3306)) - set(server_command(program, tmp_path, 3306, Setup.DURABLE))
    assert {option.partition("=")[0] for option in relaxed} == {
        "--innodb-flush-log-at-trx-commit",
        "--innodb-flush-method",
        "--innodb-doublewrite",
    }


def test_a_path_too_long_for_a_socket_is_an_error() -> None:
    with pytest.raises(ServerStartError, match="too long for a socket"):
        socket_path(Path("/") / ("x" * 100))


def test_what_is_no_mysql_server_greets_nobody(tmp_path: Path) -> None:
    assert greeting(tmp_path / "nothing") is None
    assert greeting(("127.0.0.1", free_port())) is None
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        # MySQL's way to refuse: an error packet in place of the greeting.
        refusal = b"\xff\x10\x04Too many connections"

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(len(refusal).to_bytes(3, "little") + b"\0" + refusal)

        refused = pool.submit(refuse)
        assert greeting(listener.getsockname()) is None
        refused.result()


def test_json_keeps_everything_and_the_repr_keeps_the_passwords(servers: Servers) -> None:
    again = Servers.from_json(servers.to_json())
    assert again == servers
    assert json.loads(servers.to_json())["mysql_url"] == servers.mysql_url
    assert "mysql+aiomysql" not in repr(servers)


def gone(servers: Servers) -> None:
    """Wait until private servers take no connection and their files are removed."""
    assert servers.mysql_ca is not None
    directory = servers.mysql_ca.parent.parent
    wait_until(lambda: not directory.exists(), f"the removal of {directory}")
    assert not takes_connections(servers.mysql_url)
    assert servers.mariadb_url is None or not takes_connections(servers.mariadb_url)


@own_servers
def test_stopping_leaves_nothing() -> None:
    servers = start_servers()
    try:
        assert takes_connections(servers.mysql_url)
    finally:
        servers.stop()
    assert servers.mysql_ca is not None
    assert not servers.mysql_ca.parent.parent.exists()
    gone(servers)


@own_servers
def test_killing_the_starter_stops_the_servers(tmp_path: Path) -> None:
    told = tmp_path / "servers"
    script = f"""
import pathlib, signal
from tests.servers.databases import start_servers
servers = start_servers()
pids = [process.pid for process in servers.run._processes]
told = pathlib.Path({str(told)!r})
told.with_suffix(".partial").write_text(f"{{pids}}\\n{{servers.to_json()}}")
told.with_suffix(".partial").rename(told)
signal.pause()
"""
    command = [sys.executable, "-c", script]
    # Not under `start_process`, whose supervisor would clean up after the starter.
    with subprocess.Popen(command, cwd=PROJECT_ROOT) as starter:  # noqa: S603 - our own script
        try:
            wait_until(told.exists, "the servers' start", within_seconds=180)
            pids, text = told.read_text().split("\n", 1)
            assert takes_connections(Servers.from_json(text).mysql_url)
            assert all(is_running(pid) for pid in json.loads(pids))
        finally:
            starter.kill()
    gone(Servers.from_json(text))
    wait_until(lambda: not any(is_running(pid) for pid in json.loads(pids)), "the end of the servers' processes")


@own_servers
def test_a_run_whose_owner_is_dead_gets_no_server() -> None:
    run = ServerRun.create()
    member = ServerRun.join(run.directory)
    assert run._keep_alive is not None
    os.close(run._keep_alive)
    try:
        # Whichever comes first: the server is killed, or the directory under it is gone.
        with pytest.raises((ProcessFailedError, ServerStartError, OSError)):
            member.servers()
    finally:
        for process in member._processes:
            process.await_supervisor()
    assert not run.directory.exists()


@own_servers
def test_processes_of_a_run_share_its_servers_and_a_crash_spoils_nothing(tmp_path: Path) -> None:
    note = tmp_path / "urls"
    test = tmp_path / "test_shared.py"
    test.write_text(
        "import os, pytest\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_it(servers, number):\n"
        f"    with open({str(note)!r}, 'a') as file: file.write(servers.to_json() + '\\n')\n"
        "    if number == 2: os._exit(1)\n"
    )
    command = [*PYTEST, "-p", "xdist", "-n2", str(test)]
    done = subprocess.run(  # noqa: S603 - our own script
        command, env=PYTEST_ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "1 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    assert "database servers: " in done.stdout
    used = {Servers.from_json(line) for line in note.read_text().splitlines()}
    assert len(used) == 1
    directory = used.copy().pop().mysql_ca
    assert directory is not None
    assert not directory.exists()
    gone(used.pop())


@own_servers
def test_an_interrupted_test_run_leaves_nothing(tmp_path: Path) -> None:
    note = tmp_path / "servers"
    test = tmp_path / "test_interrupted.py"
    test.write_text(
        "import os, signal\n"
        "def test_it(servers):\n"
        f"    with open({str(note)!r} + '.partial', 'w') as file: file.write(servers.to_json())\n"
        f"    os.rename(file.name, {str(note)!r})\n"
        "    signal.pause()\n"
    )
    command = [*PYTEST, str(test)]
    with start_process(
        command, ready=note.exists, env=PYTEST_ENVIRONMENT, cwd=tmp_path, ready_within_seconds=180
    ) as running:
        used = Servers.from_json(note.read_text())
        assert takes_connections(used.mysql_url)
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == pytest.ExitCode.INTERRUPTED
        gone(used)


@own_servers
def test_a_given_server_is_used_as_it_is(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert servers.mysql_password_url is not None
    monkeypatch.setenv("TEST_MYSQL_URL", servers.mysql_password_url)
    given = start_servers()
    try:
        assert given.mysql_url == servers.mysql_password_url
        assert given.mysql_is_real == servers.mysql_is_real
        assert given.run is not None
        assert not list(given.run.directory.glob("mysql-*"))
        assert given.mysql_ca is None
    finally:
        given.stop()
    assert takes_connections(servers.mysql_url)


@pytest.mark.parametrize("port", ["none", "port:with/slash"])
def test_a_given_url_that_leads_nowhere_is_reported_without_its_password(
    port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(free_port()) if port == "none" else port
    monkeypatch.setenv("TEST_MYSQL_URL", f"mysql+aiomysql://root:s3cret@127.0.0.1:{port}/")
    # MariaDB is started beside a given server; here that is beside the point.
    monkeypatch.setattr("tests.servers.databases.find_mariadb", lambda path: None)
    with pytest.raises(NoServerError, match="TEST_MYSQL_URL") as caught:
        start_servers()
    assert "s3cret" not in str(caught.value)
