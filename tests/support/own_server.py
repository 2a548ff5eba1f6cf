"""A MySQL server of a test's own, which it may stop, freeze and kill."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.mysql_instance import Setup, create_data_directory, greeting, server_command, socket_path
from scripts.mysql_programs import get_mysql, search_path, server_home
from tests.servers.processes import RunningProcess, free_port, start_process


class OwnServer:
    """A server with its data in `directory`; it can be started again after its end."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._program = get_mysql(server_home(), search_path())
        create_data_directory(self._program, server_home(), directory / "data")

    @contextmanager
    def running(self) -> Iterator[RunningProcess]:
        """Run it for the length of the block; root has no password."""
        command = server_command(self._program, self._directory, self.port, Setup.DURABLE)
        ready = socket_path(self._directory)
        with start_process(command, ready=lambda: greeting(ready) is not None, grace_seconds=0) as process:
            yield process
