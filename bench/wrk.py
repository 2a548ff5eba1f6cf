"""wrk, the load generator: the one on the PATH, else one unpacked from the system's packages into a cache.

Nothing of the system is changed: apt resolves and downloads in directories of our own, as root or as another user. A
renamed directory is a finished fetch.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mysql_debian import exclusive

CACHE = Path("~/.cache/wrk").expanduser()
DPKG_STATUS = Path("/var/lib/dpkg/status")
FETCH_TIMEOUT_SECONDS = 300


class WrkMissingError(Exception):
    """There is no wrk and none could be fetched; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Wrk:
    """The program, and the folder of its libraries where they are not the system's."""

    program: Path
    libraries: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment to run it in."""
        return {"LD_LIBRARY_PATH": self.libraries} if self.libraries else {}

    def version(self) -> str:
        """Return what it calls itself, such as "wrk debian/4.1.0-3+b2".

        Raises:
            WrkMissingError: it does not run.
        """
        try:
            done = subprocess.run(  # noqa: S603 - the load generator, with a fixed argument
                [self.program, "--version"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise WrkMissingError(f"{self.program} does not run: {type(error).__name__}") from error
        # Its status is 1 here: it wants a URL too.
        if not done.stdout.startswith("wrk "):
            raise WrkMissingError(f"{self.program} does not run: {done.stderr.strip()[-300:]}")
        return " ".join(done.stdout.split()[:2])


def get_wrk() -> Wrk:
    """Return wrk, fetching it (0.4 MB and apt's package lists) where it is missing.

    Raises:
        WrkMissingError: it is not here, and apt is not, or apt failed.
    """
    if (found := shutil.which("wrk")) is not None:
        return Wrk(Path(found))
    try:
        with exclusive(CACHE / "fetch.lock"):
            root = CACHE / "root"
            if not root.is_dir():
                _fetch(root)
            return _unpacked(root)
    except OSError as error:
        raise WrkMissingError(_advice(f"{CACHE}: {error.strerror or error}")) from error


def _fetch(target: Path) -> None:
    apt_get, dpkg_deb = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt_get is None or dpkg_deb is None:
        raise WrkMissingError(_advice("apt-get is not here either"))
    print("fetching wrk from the system's packages (once)", file=sys.stderr)
    for remnant in CACHE.glob("fetching-*"):
        # The process that left it behind held the lock and has ended.
        shutil.rmtree(remnant)
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=CACHE) as name:
        work = Path(name)
        apt = [apt_get, f"--config-file={_write_apt_configuration(work)}", "-qq"]
        _run([*apt, "update"])
        # What this system has already is left out.
        _run([*apt, "--yes", "--download-only", "--no-install-recommends", "install", "wrk"])
        root = work / "root"
        root.mkdir()
        for package in sorted((work / "cache/archives").glob("*.deb")):
            _run([dpkg_deb, "--extract", str(package), str(root)])
        _unpacked(root).version()
        root.rename(target)


def _write_apt_configuration(work: Path) -> Path:
    """Write what makes apt keep everything in `work`, with the system's own sources and list of what is installed."""
    for directory in ("lists/partial", "cache/archives/partial"):
        (work / directory).mkdir(parents=True)
    # A copy, because apt locks the folder that the list is in.
    shutil.copy(DPKG_STATUS, work / "status")
    settings = {
        # apt's download user cannot enter a private directory.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::Cache": str(work / "cache"),
        "Dir::Cache::archives": str(work / "cache/archives"),
        "Dir::State": str(work),
        "Dir::State::lists": str(work / "lists"),
        "Dir::State::status": str(work / "status"),
    }
    # Hooks of the system's configuration would clean the system's caches.
    hooks = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
    lines = [*(f"#clear {hook};" for hook in hooks), *(f'{name} "{value}";' for name, value in settings.items())]
    configuration = work / "apt.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return configuration


def _unpacked(root: Path) -> Wrk:
    folders = sorted({str(library.parent) for library in root.rglob("*.so*")})
    return Wrk(root / "usr/bin/wrk", os.pathsep.join(folders) or None)


def _run(command: Sequence[str]) -> None:
    name = Path(command[0]).name
    try:
        subprocess.run(  # noqa: S603 - apt-get or dpkg-deb, with arguments of our own
            command,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=FETCH_TIMEOUT_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise WrkMissingError(_advice(f"{name} was not done after {FETCH_TIMEOUT_SECONDS} s")) from error
    except subprocess.CalledProcessError as error:
        # What it said may name a mirror, and with it a password.
        raise WrkMissingError(_advice(f"{name} failed with status {error.returncode}")) from None


def _advice(reason: str) -> str:
    return f"The load generator wrk is not on the PATH ({reason}). Install the package wrk (Debian, Ubuntu, Homebrew)."
