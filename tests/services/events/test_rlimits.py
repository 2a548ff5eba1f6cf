"""A process that serves asks for as many open files as it may have."""

import sys
from pathlib import Path

from app.config.settings import PROJECT_ROOT
from app.services.events.rlimits import MAX_OPEN_FILES
from tests.servers.processes import answers_http, free_port, start_process


def test_a_service_may_open_more_than_the_shell_says(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "tmp").mkdir()
    with start_process(
        ["sh", "-c", 'ulimit -Sn 200 && exec "$0" -m app', sys.executable],
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env={**environment, "APP_PORT": str(port)},
        cwd=PROJECT_ROOT,
    ) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="ascii").splitlines()
    soft, hard = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
    assert int(soft) == (MAX_OPEN_FILES if hard == "unlimited" else min(int(hard), MAX_OPEN_FILES))
    assert int(soft) > 200
