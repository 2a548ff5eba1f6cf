"""Workers are replaced one at a time, each after its successor serves; a bad release leaves the old one serving."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from app.config.settings import PROJECT_ROOT
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process
from tests.servers.waiting import wait_until

GUNICORN = [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn_config.py", "app.main:app"]
WITHIN_SECONDS = 120


@dataclass(slots=True)
class Release:
    """A copy of the service that can be changed while it runs."""

    folder: Path
    port: int
    process: RunningProcess | None = None

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers, the oldest first."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return sorted(int(pid) for pid in children.split())

    @property
    def output(self) -> str:
        assert self.process is not None
        return self.process.output()

    def change(self, file: str, *, end: str = "", old: str = "", new: str = "") -> Callable[[], None]:
        """Change a file of it, and return what takes the change back."""
        path = self.folder / file
        before = path.read_text(encoding="utf-8")
        _write_anew(path, before.replace(old, new) + end)
        assert path.read_text(encoding="utf-8") != before
        return lambda: _write_anew(path, before)

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def answers(self, times: int) -> None:
        """Ask on connections of their own, so that every worker is asked."""
        for _ in range(times):
            assert httpx2.get(f"http://127.0.0.1:{self.port}/api/v1/health/live", timeout=120).status_code == 200

    def version(self) -> str:
        answer = httpx2.get(f"http://127.0.0.1:{self.port}/openapi.json", timeout=120)
        return str(answer.json()["info"]["version"])

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, what, within_seconds=WITHIN_SECONDS)


def _write_anew(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    # Python takes its compiled copy of a source of the same second and size for good.
    os.utime(path, (time.time() + 2, time.time() + 2))


@pytest.fixture
def release(tmp_path: Path) -> Release:
    folder = tmp_path / "release"
    folder.mkdir()
    shutil.copytree(PROJECT_ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("weights", "training"))
    shutil.copytree(PROJECT_ROOT / "sql", folder / "sql")
    shutil.copy(PROJECT_ROOT / "gunicorn_config.py", folder)
    return Release(folder, free_port())


@contextmanager
def serving(release: Release, environment: dict[str, str], *options: str) -> Iterator[None]:
    with start_process(
        [*GUNICORN, *options],
        ready=lambda: answers_http(release.port, "/api/v1/health/live"),
        env={**environment, "APP_PORT": str(release.port)},
        cwd=release.folder,
        grace_seconds=30,
    ) as release.process:
        workers = int(options[options.index("--workers") + 1])
        release.wait(lambda: release.output.count("Application startup complete") >= workers, "workers")
        yield
    release.process = None


@contextmanager
def being_asked(release: Release) -> Iterator[list[str]]:
    """Ask all the time, and give what went wrong."""
    wrong: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        # With a pause: what is tested has the same cores.
        while not is_over.wait(0.02):
            try:
                release.answers(1)
            except (httpx2.HTTPError, AssertionError) as error:
                wrong.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        is_over.set()
        thread.join()


def waits_for(file: Path) -> str:
    """Code that goes on when there is a file."""
    return f"\nimport pathlib, time\nwhile not pathlib.Path({str(file)!r}).exists():\n    time.sleep(0.01)\n"


def test_old_workers_serve_until_new_ones_do_and_there_is_one_more_at_the_most(
    release: Release, environment: dict[str, str], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with serving(release, environment, "--workers", "2"), being_asked(release) as wrong:
        old = release.workers
        # The master has loaded the package, too.
        release.change("app/__init__.py", end='\nVERSION = "2.0.0"\n')
        release.change("app/main.py", end=waits_for(go))
        release.reload()
        release.wait(lambda: len(release.workers) == 3, "a new worker")
        release.answers(20)
        assert len(release.workers) == 3
        assert set(old) < set(release.workers)
        assert release.version() != "2.0.0"
        go.touch()
        most = 0
        while set(old) & set(release.workers) or len(release.workers) != 2:
            most = max(most, len(release.workers))
            time.sleep(0.01)
        assert most == 3
        assert {release.version() for _ in range(10)} == {"2.0.0"}
    assert wrong == []


def test_a_release_that_does_not_start_leaves_the_old_one_serving(
    release: Release, environment: dict[str, str]
) -> None:
    with serving(release, environment, "--workers", "2"), being_asked(release) as wrong:
        old = release.workers
        # Once the code, once the settings, once gunicorn's settings.
        mend = release.change("app/main.py", end="\nraise RuntimeError('a bad release')\n")
        release.reload()
        release.wait(lambda: "reload given up" in release.output, "the end of the reload")
        mend()
        assert "a bad release" in release.output
        (release.folder / ".env").write_text("LLM_TIMEOUT=soon\n")
        release.reload()
        release.wait(lambda: "reload refused" in release.output, "the refusal")
        assert "LLM_TIMEOUT" in release.output
        (release.folder / ".env").unlink()
        mend = release.change("gunicorn_config.py", end="\n1 / 0\n")
        release.reload()
        release.wait(lambda: release.output.count("reload refused") == 2, "the second refusal")
        mend()
        release.answers(10)
        assert release.workers == old
        release.reload()
        release.wait(lambda: len(release.workers) == 2 and not set(old) & set(release.workers), "new workers")
        release.answers(10)
    assert wrong == []


def test_a_worker_that_has_answered_enough_serves_until_another_does(
    release: Release, environment: dict[str, str], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    options = ("--workers", "1", "--max-requests", "10", "--max-requests-jitter", "0")
    with serving(release, environment, *options):
        [old] = release.workers
        # What takes its place does not start; it is tried again.
        mend = release.change("app/main.py", end="\nraise RuntimeError('a bad release')\n")
        release.answers(15)
        release.wait(lambda: "the next try is in" in release.output, "a failure")
        mend()
        release.change("app/main.py", end=waits_for(go))
        release.wait(lambda: len(release.workers) == 2, "the next try")
        release.answers(30)
        assert old in release.workers
        go.touch()
        release.wait(lambda: old not in release.workers, "the end of the old one")
        release.answers(5)


def test_a_service_whose_first_worker_does_not_start_ends(release: Release, environment: dict[str, str]) -> None:
    release.change("app/main.py", end="\nraise RuntimeError('a bad release')\n")
    with start_process(
        [*GUNICORN, "--workers", "1"],
        ready=lambda: True,
        env={**environment, "APP_PORT": str(release.port)},
        cwd=release.folder,
    ) as process:
        assert process.wait(WITHIN_SECONDS) == 3
