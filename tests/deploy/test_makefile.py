"""Each Python has an environment of its own: `make -n` says what would be done, with interpreters that do not run."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.config.settings import PROJECT_ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def plan(*arguments: str, path: str, home: Path) -> subprocess.CompletedProcess[str]:
    """What make would do in an empty folder with this PATH."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(PROJECT_ROOT / name, home)
    return subprocess.run(  # noqa: S603 - arguments of our own
        [str(shutil.which("make")), "-n", *arguments],
        cwd=home,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for a PATH that has no Python yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "make", "test", "echo"):
        if (found := shutil.which(name)) is not None:
            (folder / name).symlink_to(found)
    return folder


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ((), ".venv"),
        (("PYTHON=python3.13",), ".venv-python3.13"),
        (("PYTHON=/opt/python/bin/python3.14",), ".venv-python3.14"),
    ],
)
def test_a_chosen_python_has_its_own_environment(arguments: tuple[str, ...], environment: str, tmp_path: Path) -> None:
    done = plan("test", *arguments, path=os.environ["PATH"], home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"^(\S+)/bin/python -m pytest", done.stdout, re.MULTILINE)) == {environment}


def test_the_tests_run_with_each_python_that_is_there(tools: Path, tmp_path: Path) -> None:
    for version in ("3.9", "3.12", "3.14"):
        (tools / f"python{version}").symlink_to("/bin/true")
    done = plan("test-pythons", path=str(tools), home=tmp_path)
    assert done.returncode == 0, done.stderr
    run = re.findall(r"^(\S+)/bin/python -m pytest", done.stdout, re.MULTILINE)
    assert run == [".venv-python3.12", ".venv-python3.14"]


def test_without_any_python_it_fails(tools: Path, tmp_path: Path) -> None:
    done = plan("test-pythons", path=str(tools), home=tmp_path)
    assert done.returncode != 0
    assert "no python3.11 to python3.14" in done.stderr


def test_what_is_said_to_be_supported_is_what_is_run() -> None:
    """The classifiers of pyproject.toml, and the versions of `make test-pythons`."""
    project = (PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [versions] = re.findall(r"for version in ([\d. ]+);", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"))
    assert re.findall(r"Python :: (3\.\d+)", project) == versions.split()
