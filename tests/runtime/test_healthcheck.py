"""The health check of the image: it says no when it should."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from app.config.settings import PROJECT_ROOT
from app.runtime import healthcheck
from tests.servers.processes import free_port, start_process
from tests.servers.waiting import wait_until
from tests.support.running import running


def check(*arguments: str, **variables: str) -> int:
    return subprocess.run(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-m", "app.runtime.healthcheck", *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, **variables},
        check=False,
    ).returncode


def test_a_service_that_answers_is_alive(environment: dict[str, str], tmp_path: Path) -> None:
    port = str(free_port())
    (tmp_path / "tmp").mkdir()
    assert check(APP_PORT=port) == 1
    with running("uvicorn", int(port), {**environment, "APP_PORT": port}):
        assert check(APP_PORT=port) == 0


def test_what_answers_something_else_is_not_the_service(tmp_path: Path) -> None:
    port = free_port()
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with start_process(server, ready=lambda: healthcheck.service_answers(port) or port_is_open(port)):
        assert check(APP_PORT=str(port)) == 1


def metrics_at(port: int) -> str:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=120).text
    except httpx2.HTTPError:
        return ""


def port_is_open(port: int) -> bool:
    return f":{port:04X}" in Path("/proc/net/tcp").read_text()


def test_a_worker_shows_that_it_lives(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    assert check("worker", TMPDIR=str(folder)) == 1
    port = free_port()
    with start_process(
        [sys.executable, "-m", "app.worker"],
        ready=lambda: True,
        env={**environment, "WORKER_METRICS_PORT": str(port)},
        cwd=PROJECT_ROOT,
    ) as worker:
        wait_until(lambda: check("worker", TMPDIR=str(folder)) == 0, "the worker has begun")
        assert worker.wait(0) is None
        wait_until(lambda: "image_classifier_processes 1.0" in metrics_at(port), "the worker shows its figures")
    [file] = folder.glob("*.alive")
    os.utime(file, (file.stat().st_mtime - healthcheck.SILENCE_SECONDS,) * 2)
    assert check("worker", TMPDIR=str(folder)) == 1


def test_the_heartbeat_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = tmp_path / "target"
    healthcheck.heartbeat_file().symlink_to(target)
    healthcheck.beat()
    assert not target.exists()
    assert not healthcheck.worker_lives()
