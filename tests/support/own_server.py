"""A MySQL server of a test's own, which it may stop, freeze and kill; a kill costs nothing that it has committed."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.mysql_instance import Setup, create_data_directory, greeting, server_command, socket_path
from scripts.mysql_programs import get_mysql, search_path, server_home
from tests.servers.processes import RunningProcess, free_port, start_process


class OwnServer:
    """A server with its data in `directory`; it can be started again after its end. Root has no password."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._program = get_mysql(server_home(), search_path())
        self._stack = ExitStack()
        self._process: RunningProcess | None = None
        create_data_directory(self._program, server_home(), directory / "data")

    @property
    def url(self) -> str:
        """The administrator's URL, without a database."""
        return f"mysql+aiomysql://root@127.0.0.1:{self.port}/"

    @contextmanager
    def running(self) -> Iterator[RunningProcess]:
        """Run it for the length of the block."""
        command = server_command(self._program, self._directory, self.port, Setup.DURABLE)
        ready = socket_path(self._directory)
        with start_process(command, ready=lambda: greeting(ready) is not None, grace_seconds=0) as process:
            yield process

    def start(self) -> None:
        """Run it until `kill`."""
        self._process = self._stack.enter_context(self.running())

    def kill(self) -> None:
        """End it at once, if `start` has started it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process = None
            self._stack.close()

    def freeze(self) -> None:
        """Have it take connections and say nothing more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on with what has arrived meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
