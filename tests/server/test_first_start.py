"""`python -m app`, which `make run` ends in: what it tells the person at the terminal."""

import socket
import sys

from app.config.settings import PROJECT_ROOT
from tests.servers.processes import free_port, start_process
from tests.support.running import running


def test_it_says_where_to_look(environment: dict[str, str]) -> None:
    port = free_port()
    with running("python", port, {**environment, "APP_PORT": str(port)}) as process:
        said = process.output()
    for path in ("/demo", "/dashboard", "/docs", "/api/v1/classify"):
        assert f"http://127.0.0.1:{port}{path}\n" in said


def test_a_port_in_use_is_one_line_that_names_the_setting(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start_process(
            [sys.executable, "-m", "app"],
            ready=lambda: True,
            env={**environment, "APP_PORT": str(port)},
            cwd=PROJECT_ROOT,
        ) as process:
            assert process.wait(120) == 1
            said = process.output()
    assert said == f"port {port} of 127.0.0.1 is in use by another program; set APP_PORT to a free one\n"
