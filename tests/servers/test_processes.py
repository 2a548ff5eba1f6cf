"""A started program is ready when the block begins and gone when it ends, with everything it started."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.processes import ProcessFailedError, answers_http, free_port, start_process
from tests.servers.waiting import is_running, wait_until

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# Starts a child in a session of its own, which no signal to the process group reaches, and names both.
FAMILY = """
import pathlib, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(f"{child.pid}\\n")
signal.pause()
"""


def number_in(file: Path) -> int | None:
    text = file.read_text() if file.exists() else ""
    return int(text) if text.endswith("\n") else None


def test_server_answers_in_the_block_and_is_gone_after_it(tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("hello")
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with start_process(command, ready=lambda: answers_http(port), cwd=tmp_path) as server:
        assert answers_http(port, "/hello.txt")
        wait_until(lambda: "GET /hello.txt" in server.output(), "the request in the server's output")
        assert server.wait(0) is None
    assert not is_running(server.pid)
    assert not answers_http(port)
    assert not server.log.parent.exists()


def test_descendants_in_other_sessions_are_gone_too(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with start_process([sys.executable, "-c", FAMILY, str(note)], ready=lambda: number_in(note) is not None) as program:
        child = number_in(note)
        assert child is not None
        assert is_running(child)
    assert not is_running(program.pid)
    assert not is_running(child)


def test_the_environment_is_the_given_one(tmp_path: Path) -> None:
    note = tmp_path / "environment"
    script = f"import os, pathlib; pathlib.Path({str(note)!r}).write_text(os.environ['ONLY'])"
    with start_process([sys.executable, "-c", script], ready=note.exists, env={"ONLY": "this"}) as program:
        assert program.wait(120) == 0
    assert note.read_text() == "this"


def test_a_module_that_is_forked_runs_as_python_would_run_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import atexit, json, os, pathlib, sys\n"
        "said = [sys.argv[1:], dict(os.environ), os.getcwd(), __name__, os.getpid() == os.getsid(0)]\n"
        "said.append(sys.stdin.read())\n"
        "said.append([name for name in sys.modules if name.partition('.')[0] in ('app', 'gunicorn')])\n"
        "atexit.register(pathlib.Path('said').write_text, json.dumps(said))\n"
        "print(__spec__.name, flush=True)\n"
        "sys.exit(7)\n"
    )
    command = [sys.executable, "-m", "mine", "one", "-two"]
    with start_process(command, ready=lambda: True, env={"ONLY": "this"}, cwd=tmp_path) as program:
        assert program.supervisor is None
        assert program.wait(120) == 7
        assert program.output() == "mine\n"
    said = json.loads((tmp_path / "said").read_text())
    assert said == [["one", "-two"], {"ONLY": "this"}, str(tmp_path), "__main__", True, "", []]


def test_a_program_that_ends_early_fails_with_its_output() -> None:
    script = "import sys; print('out'); print('no such table', file=sys.stderr); sys.exit(3)"
    with (
        pytest.raises(ProcessFailedError, match=r"(?s)status 3.*no such table"),
        start_process([sys.executable, "-c", script], ready=lambda: False),
    ):
        pytest.fail("the block must not begin")


def test_a_program_that_is_never_ready_fails_with_its_output_and_is_gone(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = "import os, pathlib, signal, sys; print('waiting for godot', flush=True)\n"
    script += "pathlib.Path(sys.argv[1]).write_text(f'{os.getpid()}\\n'); signal.pause()"

    def never() -> bool:
        wait_until(lambda: number_in(note) is not None, "the program's start")
        return False

    with (
        pytest.raises(ProcessFailedError, match=r"(?s)not ready.*waiting for godot"),
        start_process([sys.executable, "-c", script, str(note)], ready=never, ready_within_seconds=0),
    ):
        pytest.fail("the block must not begin")
    pid = number_in(note)
    assert pid is not None
    assert not is_running(pid)


def test_a_program_that_does_not_exist_fails_with_its_name() -> None:
    with (
        pytest.raises(ProcessFailedError, match=r"(?s)status 127.*/no/such/program"),
        start_process(["/no/such/program"], ready=lambda: False),
    ):
        pytest.fail("the block must not begin")


def test_the_exit_status_is_the_programs(tmp_path: Path) -> None:
    note = tmp_path / "ready"
    script = "import pathlib, signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    script += "pathlib.Path(sys.argv[1]).touch()\nwhile True: signal.pause()"
    with start_process([sys.executable, "-c", script, str(note)], ready=note.exists) as program:
        program.send_signal(signal.SIGTERM)
        assert program.wait(120) == 7
        assert program.wait(0) == 7


def test_a_program_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "ready"
    script = "import pathlib, signal, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    script += "pathlib.Path(sys.argv[1]).touch()\nwhile True: signal.pause()"
    command = [sys.executable, "-c", script, str(note)]
    with start_process(command, ready=note.exists, grace_seconds=0.1) as program:
        assert is_running(program.pid)
    assert program.wait(0) == 128 + signal.SIGKILL


def test_killing_the_starter_leaves_nothing(tmp_path: Path) -> None:
    note, told = tmp_path / "pid", tmp_path / "told"
    starter = f"""
import pathlib, signal, sys
from tests.servers.processes import start_process
note, told = pathlib.Path({str(note)!r}), pathlib.Path({str(told)!r})
family = [sys.executable, "-c", {FAMILY!r}, str(note)]
with start_process(family, ready=lambda: note.exists() and note.read_text().endswith("\\n")) as program:
    told.write_text(f"{{program.pid}} {{program.supervisor.pid}} {{program.log}}\\n")
    signal.pause()
"""
    # Not under `start_process`, whose supervisor would clean up after the starter.
    command = [sys.executable, "-c", starter]
    with subprocess.Popen(command, cwd=PROJECT_ROOT) as process:  # noqa: S603 - our own script
        try:
            wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "the program's start")
        finally:
            process.kill()
    program, supervisor, log = told.read_text().split()
    child = number_in(note)
    assert child is not None
    wait_until(lambda: not is_running(int(program)), "the program's end")
    wait_until(lambda: not is_running(child), "the end of the program's child")
    wait_until(lambda: not is_running(int(supervisor)), "the supervisor's end")
    assert not Path(log).parent.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent death signal is Linux's")
def test_killing_the_supervisor_kills_the_program() -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with start_process(command, ready=lambda: True) as program:
        assert program.supervisor is not None
        program.supervisor.kill()
        wait_until(lambda: not is_running(program.pid), "the program's end")
        assert program.wait(120) == 128 + signal.SIGKILL
