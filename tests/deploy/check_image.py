"""The image, really built and run, without a Docker engine: `make image-test`.

Not part of `make test`: the build takes three minutes (ten the first time), 5 GB of disk and root.
"""

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from app.config.settings import PROJECT_ROOT
from scripts.image_build import Container, build, container_of, environment
from tests.fakes.images import heic_photo
from tests.servers.processes import RunningProcess, free_port, start_process
from tests.servers.programs import get_program
from tests.servers.waiting import wait_until

UID = 10001
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def image() -> str:
    """The image of the project as it is now."""
    get_program("buildah", "buildah")
    get_program("debootstrap", "debootstrap")
    return build()


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    """One container for all tests: making one copies the whole image."""
    with container_of(image) as made:
        yield made


def run(container: Container, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the container to its end."""
    settings = [f"{name}={value}" for name, value in variables.items()]
    return subprocess.run(  # noqa: S603 - the container's own programs
        container.command(["env", *settings, *arguments]),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@contextmanager
def running(container: Container, *arguments: str, **variables: str) -> Iterator[RunningProcess]:
    """Run the image's command, or another one, for the length of the block."""
    settings = [f"{name}={value}" for name, value in variables.items()]
    command = container.command(["env", *settings, *(arguments or container.config["Cmd"])])
    with start_process(command, ready=lambda: inside(container) != [], env=environment(), grace_seconds=30) as process:
        try:
            yield process
        finally:
            # buildah does not pass on its own end.
            for pid in inside(container):
                os.kill(pid, signal.SIGKILL)


def inside(container: Container) -> list[int]:
    """The processes whose root is the container's, the oldest first; buildah's own stay outside."""
    found = []
    root = container.root.stat()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                # buildah mounts it at another place, so that its name tells nothing.
                is_inside = os.path.samestat((process / "root").stat(), root)
                is_inside = is_inside and not (process / "cmdline").read_bytes().startswith(b"buildah")
                started = int((process / "stat").read_text().rpartition(")")[2].split()[19])
            except (OSError, IndexError):
                continue
            if is_inside:
                found.append((started, int(process.name)))
    return [pid for _, pid in sorted(found)]


def user_of(pid: int) -> tuple[int, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["Uid"].split()[1]), int(status["Gid"].split()[1])


def is_healthy(container: Container, *arguments: str, **variables: str) -> bool:
    """Run the image's own health check, or that of the worker."""
    check = container.config["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    return run(container, *check[1:], *arguments, **variables).returncode == 0


# Before the others, which use what it looks into.
def test_nothing_is_in_it_that_serves_nobody(container: Container) -> None:
    assert container.config["User"] == f"{UID}:{UID}"
    for program in ("gcc", "cc", "make", "git", "curl"):
        assert run(container, "sh", "-c", f"command -v {program}").returncode != 0, program
    assert run(container, "python", "-c", "import pip").returncode != 0
    # What only some settings need: pictures in S3.
    assert run(container, "python", "-c", "import obstore.store").returncode == 0
    root = container.root
    names = {path.name for path in (root / "app").iterdir()}
    assert names == {"LICENSE", "__pycache__", "app", "gunicorn_config.py", "sql"}
    for cache in ("root/.cache", "data/.cache", "tmp"):
        assert not (root / cache).exists() or list((root / cache).iterdir()) == [], cache
    weights = {
        path.name for path in (root / "app/app/clients/local/weights").iterdir() if not path.name.startswith(".")
    }
    assert weights == {"centerface.onnx", "efficientnet_lite2.onnx"}
    # What its user could change, and a read-only root file system would not let it.
    writable = [
        str(path)
        for folder in ("app", "opt", "usr", "etc")
        for path in (root / folder).rglob("*")
        if not path.is_symlink() and (path.lstat().st_uid == UID or path.lstat().st_mode & stat.S_IWOTH)
    ]
    assert writable == []


def test_no_process_compiles_what_it_imports(container: Container) -> None:
    """The result could not be kept: the root file system may be read-only."""
    for command in (["-m", "app.runtime.healthcheck"], ["-c", "import app.main, app.worker, app.cli.main"]):
        said = run(container, "python", "-v", *command).stderr
        assert "import 'http.client'" in said
        assert re.findall(r"^# code object from (.+\.py)$", said, re.MULTILINE) == []
    # Whatever the times of files become: https://peps.python.org/pep-0552/#specification, hash-based; bit 1 says that
    # the source is looked at, which an image built on ours may replace.
    for folder, flags in (("app", b"\x03\x00\x00\x00"), ("opt/venv", b"\x01\x00\x00\x00")):
        compiled = list((container.root / folder).rglob("*.pyc"))
        assert compiled
        assert [str(path) for path in compiled if path.read_bytes()[4:8] != flags] == []


def test_a_photo_is_answered_and_sigterm_ends_it(container: Container) -> None:
    port = str(free_port())
    variables = {"APP_PORT": port, "APP_HOST": "127.0.0.1", "WEB_CONCURRENCY": "2"}
    assert not is_healthy(container, APP_PORT=port)
    written_before = files_written(container)
    with running(container, **variables) as process:
        wait_until(lambda: is_healthy(container, APP_PORT=port), "the service answers", 120)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=120) as api:
            photo = (PROJECT_ROOT / "docs/samples/coffee.jpg").read_bytes()
            answer = api.post("/classify", files={"image": photo}).json()
            assert answer["success"], answer
            assert answer["data"]["category"] == "foods"
            # Decoded by a child process, which confines itself.
            assert api.post("/classify", files={"image": heic_photo(320, 240)}).json()["success"]
            assert api.get("/health").json()["status"] == "healthy"
        pids = inside(container)
        # gunicorn and two workers, at least.
        assert len(pids) >= 3
        assert {user_of(pid) for pid in pids} == {(UID, UID)}
        os.kill(pids[0], signal.SIGTERM)
        assert process.wait(120) == 0, process.output()
        assert "Traceback" not in process.output()
    assert "image-classifier.db" in run(container, "ls", "/data").stdout
    # So the root file system may be read-only.
    assert files_written(container) == written_before


def files_written(container: Container) -> set[str]:
    """Files of the container that its user has made, outside of what is always writable."""
    return {
        str(path)
        for path in container.root.rglob("*")
        if not path.is_symlink() and path.lstat().st_uid == UID and path.parts[len(container.root.parts)] != "data"
    }


def test_it_runs_tasks_and_migrations_too(container: Container) -> None:
    assert not is_healthy(container, "worker")
    done = run(container, "python", "-m", "app.cli", "migrate")
    assert done.returncode == 0, done.stderr
    with running(container, "python", "-m", "app.worker", MIGRATE_ON_START="false") as process:
        wait_until(lambda: is_healthy(container, "worker"), "the worker lives", 120)
        os.kill(inside(container)[0], signal.SIGTERM)
        assert process.wait(120) == 0, process.output()
        assert "shutting down" in process.output()


def test_production_needs_its_secrets(container: Container) -> None:
    done = run(container, *container.config["Cmd"], ENV="production")
    assert done.returncode != 0
    assert "SECRET_KEY is needed when ENV=production" in done.stderr


def test_no_secret_and_no_path_of_the_builder_is_in_it(container: Container) -> None:
    said = json.dumps(container.config)
    assert str(PROJECT_ROOT) not in said
    assert not list((container.root / "app").rglob(".env*"))
    assert not (container.root / "etc/pip.conf").exists() or (container.root / "etc/pip.conf").stat().st_size == 0
