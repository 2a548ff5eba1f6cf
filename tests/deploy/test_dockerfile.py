"""The Dockerfile by hadolint's rules. `make image-test` builds and runs it."""

import re
import subprocess
import sys
from pathlib import Path

from app.config.settings import PROJECT_ROOT

HADOLINT = str(Path(sys.executable).with_name("hadolint"))


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(  # noqa: S603 - the program is the development environment's
        [HADOLINT, "--failure-threshold", "style", str(PROJECT_ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_python_is_the_one_that_the_tests_of_types_are_for() -> None:
    """What is pinned in pyproject.toml as the oldest Python is what the image has."""
    [version] = re.findall(
        r"python:(\d+\.\d+)-slim-bookworm", (PROJECT_ROOT / "Dockerfile").read_text(encoding="utf-8")
    )
    assert f'requires-python = ">={version}"' in (PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8")
