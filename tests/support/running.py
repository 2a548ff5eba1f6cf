"""The service as a process, by uvicorn and by gunicorn."""

import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config.settings import PROJECT_ROOT
from tests.servers.processes import RunningProcess, answers_http, start_process

BIN = Path(sys.executable).parent
# What takes half a second and more to import: one process does it, and the service, its worker and its command line are
# forked from it. Not gunicorn, whose workers import the application after their master has said where they count.
IMPORTS = (
    *("app.main", "app.cli.main"),
    *(f"app.cli.maintenance.{name}" for name in ("database", "keys", "reclassification", "users")),
)
COMMANDS = {
    "uvicorn": [str(BIN / "uvicorn"), "app.main:app", "--host", "127.0.0.1", "--port", "{port}"],
    "gunicorn": [str(BIN / "gunicorn"), "-c", "gunicorn_config.py", "app.main:app"],
    "python": [sys.executable, "-m", "app"],
}


@contextmanager
def running(name: str, port: int, environment: dict[str, str]) -> Iterator[RunningProcess]:
    command = [part.format(port=port) for part in COMMANDS[name]]
    with start_process(
        command,
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env=environment,
        cwd=PROJECT_ROOT,
        imports=() if name == "gunicorn" else IMPORTS,
    ) as process:
        yield process


def hidden_files(pid: int, ours: tuple[Path, ...]) -> list[str]:
    """Files with something in them that a process or its children hold open outside of `ours`.

    A temporary file that was deleted has no name any more; its descriptor still shows it.
    """
    found = []
    for process in [pid, *children(pid)]:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            try:
                status, target = descriptor.stat(), str(descriptor.readlink())
            except FileNotFoundError:
                continue
            # 0, 1 and 2 are what the test gave it.
            is_content = int(descriptor.name) > 2 and stat.S_ISREG(status.st_mode) and status.st_size > 0
            if is_content and not target.startswith(tuple(map(str, ours))):
                found.append(target)
    return found


def children(pid: int) -> list[int]:
    direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return direct + [grandchild for child in direct for grandchild in children(child)]
