"""A MySQL server that can be stopped, killed, frozen and started again on the same port, with the same data.

It is set up as MySQL is without any configuration: a commit is on the disk when it is answered, and in the binary log.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL

from scripts.mysql_instance import Setup, create_data_directory, greeting, server_command, socket_path
from scripts.mysql_programs import get_mysql, search_path, server_home
from tests.servers.processes import RunningProcess, free_port, start_process

NAME = "image_classifier"
# The service is no administrator: it may neither write to a read-only server nor take the last connection.
USER, PASSWORD = "classifier", "only-for-faults"
STOP_WITHIN_SECONDS = 60.0


class DatabaseServer:
    """A server that keeps everything in `directory`; `port` stays the same.

    Raises:
        NoServerError, ServerStartError: there is no server, or it did not start.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = get_mysql(server_home(), search_path())
        self.port = free_port()
        self._process: RunningProcess | None = None
        self._stack = ExitStack()
        create_data_directory(self.program, server_home(), directory / "data")

    @property
    def name(self) -> str:
        """What the server is, such as "MySQL 9.7.4"."""
        return f"{'MySQL' if self.program.is_mysql else 'MariaDB'} {self.program.version.partition('-')[0]}"

    def start(self) -> None:
        """Start it and return when it takes connections."""
        self._process = self._stack.enter_context(
            start_process(
                server_command(self.program, self.directory, self.port, Setup.DEFAULT),
                # Through the socket: on the port another program might answer.
                ready=lambda: greeting(socket_path(self.directory)) is not None,
                grace_seconds=0,
            )
        )

    def end(self, number: signal.Signals) -> None:
        """End it by a signal, and wait for that: SIGTERM shuts it down in order, SIGKILL is a crash."""
        self._signal(number)
        if self._process is None or self._process.wait(STOP_WITHIN_SECONDS) is None:
            raise TimeoutError("the database server did not end")

    def freeze(self) -> None:
        """Let it do nothing, with its connections open, as when its machine or its disk hangs."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def connect(self, user: str = "root", password: str = "") -> "pymysql.Connection[Any]":
        """Return a connection that commits each statement, by default an administrator's."""
        return pymysql.connect(
            unix_socket=str(socket_path(self.directory)), user=user, password=password, autocommit=True
        )

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the administrator and return the rows of the last one."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def create_user(self) -> None:
        """Create the database and the user of the service, who may do all in it."""
        self.run(
            f"CREATE DATABASE {NAME}",
            f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'",
            f"GRANT ALL ON {NAME}.* TO '{USER}'@'%'",
        )

    def service_url(self, port: int) -> str:
        """Return DATABASE_URL of the service, which reaches the server at this port."""
        url = URL.create("mysql+aiomysql", USER, PASSWORD, "127.0.0.1", port, NAME)
        return url.render_as_string(hide_password=False)

    @contextmanager
    def reader(self) -> Iterator[Engine]:
        """An engine that reads the books, past any proxy."""
        url = URL.create(
            "mysql+pymysql", "root", database=NAME, query={"unix_socket": str(socket_path(self.directory))}
        )
        engine = create_engine(url)
        try:
            yield engine
        finally:
            engine.dispose()

    def close(self) -> None:
        """End it at once; its data is scratch."""
        self._stack.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
