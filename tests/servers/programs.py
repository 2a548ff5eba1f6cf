"""A program that tests need beside MySQL: the one on the PATH, else one from Debian, if we may install it."""

import os
import shutil
import subprocess

from scripts.mysql_debian import exclusive
from scripts.mysql_programs import NoServerError, search_path, server_home

INSTALL_TIMEOUT_SECONDS = 900


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
        said = ""
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            if (found := shutil.which(name, path=search_path())) is not None:
                return found
            done = subprocess.run(  # noqa: S603 - apt-get with arguments of our own
                [apt_get, "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_SECONDS,
                check=False,
            )
            said = done.stderr.strip()[-500:]
    found = shutil.which(name, path=search_path())
    if found is None:
        raise NoServerError(f"{advice}. apt-get said: {said}")
    return found
