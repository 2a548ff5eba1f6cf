"""A MySQL server of a test's own, which the test may kill, freeze and start again."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.mysql_instance import Setup, create_data_directory, greeting, server_command, socket_path
from scripts.mysql_programs import get_mysql, search_path, server_home
from tests.servers.processes import RunningProcess, free_port, start_process


class OwnServer:
    """The server; a kill costs nothing that it has committed. `url` is an administrator's, without a database."""

    def __init__(self, directory: Path) -> None:
        self._program = get_mysql(server_home(), search_path())
        self._directory = directory
        self._port = free_port()
        self._running = ExitStack()
        self._process: RunningProcess | None = None
        self.url = f"mysql+aiomysql://root@127.0.0.1:{self._port}/"
        create_data_directory(self._program, server_home(), directory / "data")

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        command = server_command(self._program, self._directory, self._port, Setup.DURABLE)
        context = start_process(command, ready=lambda: greeting(socket_path(self._directory)) is not None)
        self._process = self._running.enter_context(context)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)
        self._running.close()
        self._process = None

    def freeze(self) -> None:
        """Have it take connections and say nothing more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on with what has arrived meanwhile."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good."""
        if self._process is not None:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Run a server for the length of the block."""
    # A socket's path has little room.
    with tempfile.TemporaryDirectory(prefix="own-", dir="/tmp") as directory:
        server = OwnServer(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.close()
