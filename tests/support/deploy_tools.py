"""Programs that judge what is in deploy/."""

import subprocess
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from app.config.settings import PROJECT_ROOT
from tests.servers.programs import get_program

DEPLOY = PROJECT_ROOT / "deploy"


def run_program(
    name: str, package: str, *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program `name` of Debian's `package` and return how it ended and what it said."""
    program = get_program(name, package)
    return subprocess.run(  # noqa: S603 - a program of this machine, with arguments of our own
        [program, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def yaml_documents(path: Path) -> list[Any]:
    """Return what is in a YAML file, document by document."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
