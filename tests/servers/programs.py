"""A program that tests need beside MySQL: the one on the PATH, else one from Debian, if we may install it."""

import os
import shutil
import subprocess
from pathlib import Path

from scripts.mysql_debian import FetchError, exclusive, fetch_client
from scripts.mysql_programs import NoServerError, search_path, server_home

INSTALL_TIMEOUT_SECONDS = 900.0


def get_program(name: str, package: str, *, elsewhere: str = "") -> str:
    """Return the path of the program `name`, which Debian's `package` has; `elsewhere` is how others install it.

    Raises:
        NoServerError: it is not here and cannot be installed; the text says how to install it.
    """
    found = shutil.which(name, path=search_path())
    if found is not None:
        return found
    advice = f"The tests need {name}: apt-get install {package}" + (f" (or {elsewhere})" if elsewhere else "")
    apt_get = shutil.which("apt-get")
    if apt_get is None or os.geteuid() != 0:
        raise NoServerError(advice)
    # A package must not start a server of its own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with exclusive(server_home() / "apt.lock"):
        said: str | None = None
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            if (found := shutil.which(name, path=search_path())) is not None:
                return found
            said = run_installer([apt_get, "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments], environment)
    found = shutil.which(name, path=search_path())
    if found is None:
        raise NoServerError(f"{advice}. apt-get said: {said or f'it has installed {package}'}")
    return found


def run_installer(command: list[str], environment: dict[str, str] | None = None) -> str | None:
    """Run a program that installs another; return the end of what it says if it fails or takes too long, else None."""
    try:
        done = subprocess.run(  # noqa: S603 - arguments of our own
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"nothing for {INSTALL_TIMEOUT_SECONDS:g} seconds"
    return done.stderr.strip()[-500:] if done.returncode else None


def get_mysql_clients() -> Path:
    """Return the folder of MySQL's own mysql and mysqldump: on the PATH, else out of Debian's packages.

    Raises:
        NoServerError: they are not here and cannot be fetched; the text says how to install them.
    """
    for folder in search_path().split(os.pathsep):
        program = shutil.which("mysqldump", path=folder) if folder else None
        if program is not None:
            done = subprocess.run(  # noqa: S603 - a program of this machine
                [program, "--version"], capture_output=True, text=True, timeout=20, check=False
            )
            # Debian's is a link to MariaDB's.
            if done.returncode == 0 and "MariaDB" not in done.stdout:
                return Path(folder)
    try:
        return fetch_client(server_home(), search_path())
    except FetchError as error:
        raise NoServerError(
            f"The tests need MySQL's own mysqldump: install MySQL's client programs ({error})"
        ) from error
