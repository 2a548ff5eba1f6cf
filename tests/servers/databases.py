"""The database servers of one test run: the first process that asks starts them, and they end with the run's owner.

The owner holds the write end of a named pipe in the run's directory. Every server has a supervisor at the read end,
so it is stopped, and the directory removed, whichever way the owner ends and whichever process started the server.
"""

import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from scripts.mysql_debian import exclusive
from scripts.mysql_instance import Setup, create_data_directory, greeting, server_command, socket_path
from scripts.mysql_programs import NoServerError, ServerProgram, find_mariadb, get_mysql, search_path, server_home
from tests.servers.certificates import write_certificates
from tests.servers.processes import ProcessFailedError, RunningProcess, await_ready, free_port, spawn_supervised

PASSWORD_USER = "classifier"
READY_WITHIN_SECONDS = 180
STOP_WITHIN_SECONDS = 60
# Another process may bind the port that we found free; five times in a row it is something else.
PORT_ATTEMPTS = 5
# A socket's path has little room, and a temporary directory's may take all of it (macOS).
LONGEST_TEMPORARY_DIRECTORY = 50


@dataclass(frozen=True, slots=True)
class Servers:
    """What the tests need to know about the servers; URLs are an administrator's, without a database.

    `mysql_url` is the server under test: MySQL, unless `stands_in_because` says why MariaDB has to do.
    `mysql_password_url` is the same server as a user with a password (None with TEST_MYSQL_URL). `mysql_ca` is the
    PEM file that vouches for its certificate as 127.0.0.1 and localhost (None with TEST_MYSQL_URL). `mariadb_url` is
    None where MariaDB is not installed or stands in for MySQL.
    """

    mysql_url: str = field(repr=False)
    mysql_version: str
    mysql_is_real: bool
    mysql_password_url: str | None = field(default=None, repr=False)
    mysql_ca: Path | None = None
    mariadb_url: str | None = field(default=None, repr=False)
    mariadb_version: str | None = None
    stands_in_because: str | None = None
    run: "ServerRun | None" = field(default=None, repr=False, compare=False)

    def stop(self) -> None:
        """Stop what `start_servers` started; servers of a test run end with the run."""
        if self.run is not None:
            self.run.close()

    def to_json(self) -> str:
        """Return everything but the run, for another process of the same run."""
        data = {name: getattr(self, name) for name in _JSON_FIELDS}
        return json.dumps({**data, "mysql_ca": None if self.mysql_ca is None else str(self.mysql_ca)})

    @classmethod
    def from_json(cls, text: str) -> "Servers":
        """Return what `to_json` wrote."""
        data = json.loads(text)
        return cls(**{**data, "mysql_ca": None if data["mysql_ca"] is None else Path(data["mysql_ca"])})


_JSON_FIELDS = [each.name for each in dataclasses.fields(Servers) if each.name != "run"]


class ServerRun:
    """A test run's directory: its owner calls `create`, every other process of the run `join`s it by its path."""

    def __init__(self, directory: Path, *, keep_alive: int | None = None) -> None:
        self.directory = directory
        self._known = directory / "servers.json"
        self._keep_alive = keep_alive
        # Every supervisor holds a share of this lock until its server is gone.
        self._running = os.open(directory / "running", os.O_RDWR | os.O_CREAT, 0o600)
        self._processes: list[RunningProcess] = []

    @classmethod
    def create(cls) -> "ServerRun":
        """Begin a run whose servers live until `close`, or until this process ends in any way."""
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > LONGEST_TEMPORARY_DIRECTORY:
            base = "/tmp"  # noqa: S108 - mkdtemp makes a private directory in it
        directory = Path(tempfile.mkdtemp(prefix="servers-", dir=base))
        os.mkfifo(directory / "alive")
        # For reading too, because opening for writing alone waits for a reader.
        return cls(directory, keep_alive=os.open(directory / "alive", os.O_RDWR))

    @classmethod
    def join(cls, directory: Path) -> "ServerRun":
        """Take part in the run of another process."""
        return cls(directory)

    def servers(self, setup: Setup = Setup.SCRATCH) -> Servers:
        """Return the servers; the first process of the run that asks starts them, set up so.

        Raises:
            NoServerError: there is no MySQL, no MariaDB, or nothing behind TEST_MYSQL_URL.
            ServerStartError, ProcessFailedError: a server did not start.
        """
        with exclusive(self.directory / "lock"):
            servers = self.started()
            if servers is None:
                servers = self._start(setup)
                partial = self._known.with_suffix(".partial")
                partial.write_text(servers.to_json())
                partial.rename(self._known)
            return servers

    def started(self) -> Servers | None:
        """Return the servers if a process of this run has started them."""
        return Servers.from_json(self._known.read_text()) if self._known.exists() else None

    def close(self) -> None:
        """End the run if it is ours: stop its servers, wait for that, and remove its directory."""
        if self._keep_alive is not None:
            os.close(self._keep_alive)
            self._keep_alive = None
            deadline = time.monotonic() + STOP_WITHIN_SECONDS
            while not _try_lock(self._running) and time.monotonic() < deadline:
                time.sleep(0.01)
            for process in self._processes:
                process.await_supervisor()
            shutil.rmtree(self.directory, ignore_errors=True)
            os.close(self._running)

    def _start(self, setup: Setup) -> Servers:
        url = os.environ.get("TEST_MYSQL_URL")
        program = None if url else get_mysql(server_home(), search_path())
        mariadb_program = find_mariadb(search_path()) if program is None or program.is_mysql else None
        with ThreadPoolExecutor(2) as pool:
            starting = [
                pool.submit(self._start_server, each, setup) for each in (program, mariadb_program) if each is not None
            ]
        started = [each.result() for each in starting]
        servers = _given_server(url) if url else started.pop(0)
        if started:
            servers = dataclasses.replace(
                servers, mariadb_url=started[0].mysql_url, mariadb_version=started[0].mysql_version
            )
        return servers

    def _start_server(self, program: ServerProgram, setup: Setup) -> Servers:
        directory = Path(tempfile.mkdtemp(prefix=f"{program.kind}-", dir=self.directory))
        create_data_directory(program, server_home(), directory / "data")
        password = secrets.token_urlsafe(16)
        users = directory / "users.sql"
        users.write_text(
            f"CREATE USER '{PASSWORD_USER}'@'localhost' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{PASSWORD_USER}'@'localhost';\n"
        )
        options = [f"--init-file={users}", *write_certificates(directory)]
        for attempt in range(1, PORT_ATTEMPTS + 1):
            port = free_port()
            command = [*server_command(program, directory, port, setup), *options]
            try:
                self._supervise(command, directory)
            except ProcessFailedError as error:
                if attempt < PORT_ATTEMPTS and "Address already in use" in str(error):
                    continue
                raise
            break
        return Servers(
            mysql_url=f"mysql+aiomysql://root@127.0.0.1:{port}/",
            mysql_version=program.version,
            mysql_is_real=program.is_mysql,
            mysql_password_url=f"mysql+aiomysql://{PASSWORD_USER}:{password}@127.0.0.1:{port}/",
            mysql_ca=directory / "ca.pem",
            stands_in_because=program.stands_in_because,
        )

    def _supervise(self, command: list[str], directory: Path) -> None:
        # Without O_NONBLOCK this would wait for an owner that may have died.
        lifetime = os.open(self.directory / "alive", os.O_RDONLY | os.O_NONBLOCK)
        share = os.open(self.directory / "running", os.O_RDWR)
        fcntl.flock(share, fcntl.LOCK_SH)
        try:
            process = spawn_supervised(
                command,
                lifetime,
                directory / "log",
                remove=self.directory,
                # The data is scratch: there is nothing to shut down in order.
                grace_seconds=0,
                pass_fds=[share],
            )
        finally:
            os.close(lifetime)
            os.close(share)
        self._processes.append(process)
        # Through the socket, because on the port another run's server might answer.
        await_ready(process, lambda: greeting(socket_path(directory)) is not None, READY_WITHIN_SECONDS)


def start_servers(setup: Setup = Setup.SCRATCH) -> Servers:
    """Start servers that end with `stop()` or with this process; raises what `ServerRun.servers` does."""
    run = ServerRun.create()
    try:
        return dataclasses.replace(run.servers(setup), run=run)
    except BaseException:
        run.close()
        raise


def _given_server(url: str) -> Servers:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 3306
    except ValueError:
        # The cause would quote the URL, and with it a password.
        raise NoServerError("TEST_MYSQL_URL is not a URL: mysql+aiomysql://user:password@host:port/") from None
    version = greeting((host, port))
    if version is None:
        raise NoServerError(f"TEST_MYSQL_URL: no MySQL server takes connections at {host}:{port}")
    return Servers(mysql_url=url, mysql_version=version, mysql_is_real="mariadb" not in version.lower())


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
