"""MySQL's server and clients out of Debian's packages, unpacked beside the system: a renamed directory is a finished
fetch.

apt resolves and downloads into directories of our own, as root or as an ordinary user, so nothing of the system is
changed. The server runs with the dynamic loader and the C library it was built for, whatever this system's are.
"""

import contextlib
import fcntl
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PACKAGE = "mysql-server-core"
CLIENT_PACKAGE = "mysql-client-core"
CLIENT_PROGRAMS = ("mysql", "mysqldump")
# Debian's stable releases carry MariaDB only; MySQL stays in unstable.
SUITE = "sid"
# What `uname -m` says, Debian's name for it, and the dynamic loader below the unpacked root.
ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "x86_64": ("amd64", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
    "aarch64": ("arm64", "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"),
}
# Named in the source entry, because newer releases of Debian trust no key for every source.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FETCH_TIMEOUT_SECONDS = 900


class FetchError(Exception):
    """No server could be had from Debian's packages; the text says why, without credentials of a mirror."""


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold `lock` (a file, created with its directory) against every other process; it ends with its holder."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for the process that holds {lock}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpacked_command(home: Path, machine: str = platform.machine()) -> tuple[str, ...] | None:
    """Return the command of the server fetched into `home`, or None when there is no finished fetch."""
    if machine not in ARCHITECTURES:
        return None
    root = _root(home, machine)
    return _command(root, machine) if root.is_dir() else None


def fetch(home: Path, path: str, machine: str = platform.machine()) -> tuple[str, ...]:
    """Return the command of the server in `home`, downloading (about 60 MB) and unpacking it (260 MB) if needed.

    `path` is where apt-get and dpkg-deb are looked for.

    Raises:
        FetchError: this is no Linux machine that Debian builds MySQL for, there is no apt, or apt failed.
    """
    _check(machine)
    if (done := unpacked_command(home, machine)) is not None:
        return done
    _fetch(home, path, machine, PACKAGE, _root(home, machine))
    return _command(_root(home, machine), machine)


def fetch_client(home: Path, path: str, machine: str = platform.machine()) -> Path:
    """Return the folder in `home` with MySQL's mysql and mysqldump, downloading (14 MB) and unpacking them if needed.

    Raises:
        FetchError: as `fetch` does.
    """
    _check(machine)
    root = home / f"debian-client-{ARCHITECTURES[machine][0]}"
    if not root.is_dir():
        _fetch(home, path, machine, CLIENT_PACKAGE, root)
    return root / "bin"


def _check(machine: str) -> None:
    if machine not in ARCHITECTURES or platform.system() != "Linux":
        raise FetchError(f"Debian has no MySQL for {platform.system()} on {machine}")


def _fetch(home: Path, path: str, machine: str, package: str, target: Path) -> None:
    """Unpack `package`, and what it needs, into `target`; callers at the same time wait for the first."""
    apt_get, dpkg_deb = shutil.which("apt-get", path=path), shutil.which("dpkg-deb", path=path)
    if apt_get is None or dpkg_deb is None:
        raise FetchError("apt-get is not installed, so Debian's packages cannot be fetched")
    try:
        with exclusive(home / "fetch.lock"):
            if target.is_dir():
                return
            # Left by a process that held the lock and was killed.
            for remnant in home.glob("fetching-*"):
                shutil.rmtree(remnant)
            with tempfile.TemporaryDirectory(prefix="fetching-", dir=home) as work:
                root = _unpack(Path(work), machine, package, apt_get, dpkg_deb)
                if package == PACKAGE:
                    _run([*_command(root, machine), "--version"])
                else:
                    _write_client_programs(root, target, machine)
                root.rename(target)
    except OSError as error:
        raise FetchError(f"{home}: {error.strerror or error}") from error


def _unpack(work: Path, machine: str, package: str, apt_get: str, dpkg_deb: str) -> Path:
    print(f"fetching {package} from Debian's packages (once)", file=sys.stderr)
    apt = [apt_get, f"--config-file={_write_apt_configuration(work, machine, _mirror(apt_get))}", "-qq"]
    _run([*apt, "update"])
    _run([*apt, "--yes", "--download-only", "--no-install-recommends", "install", package])
    root = work / "root"
    root.mkdir()
    for archive in sorted((work / "cache/archives").glob("*.deb")):
        # Perl is for helper scripts, not for the server.
        if not archive.name.startswith(("perl", "libperl")):
            _run([dpkg_deb, "--extract", str(archive), str(root)])
    return root


def _write_client_programs(root: Path, target: Path, machine: str) -> None:
    """Write a script for each client program, for when `root` is at `target`: scripts find programs by their names."""
    (root / "bin").mkdir(exist_ok=True)
    for name in CLIENT_PROGRAMS:
        command = [*_loader(target, machine), str(target / "usr/bin" / name)]
        _run([*_loader(root, machine), str(root / "usr/bin" / name), "--version"])
        script = root / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script.chmod(0o755)


def _write_apt_configuration(work: Path, machine: str, mirror: str) -> Path:
    """Write apt's configuration for a system that has nothing installed and lives in `work`."""
    for directory in ("lists/partial", "cache/archives/partial", "state", "parts"):
        (work / directory).mkdir(parents=True)
    (work / "status").touch()
    signed_by = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    (work / "sources.list").write_text(f"deb {signed_by}{mirror} {SUITE} main\n")
    settings = {
        "APT::Architecture": ARCHITECTURES[machine][0],
        # apt's download user cannot enter a private directory.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::Cache": str(work / "cache"),
        "Dir::Cache::archives": str(work / "cache/archives"),
        "Dir::Etc::sourcelist": str(work / "sources.list"),
        "Dir::Etc::sourceparts": str(work / "parts"),
        "Dir::State": str(work / "state"),
        "Dir::State::lists": str(work / "lists"),
        "Dir::State::status": str(work / "status"),
    }
    # Hooks of the system's configuration would clean its caches, and fail for an ordinary user.
    lines = [f"#clear {hook};" for hook in ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke")]
    lines += ["#clear APT::Update::Post-Invoke-Success;", "#clear APT::Architectures;"]
    lines += [f'{name} "{value}";' for name, value in settings.items()]
    configuration = work / "apt.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return configuration


def _mirror(apt_get: str) -> str:
    """Return the address of the Debian mirror that this system's apt uses."""
    # Without release information apt names the sources even when its lists were never downloaded.
    listing = _run([apt_get, "indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages"])
    mirrors = [address for address in listing.split() if re.search(r"/debian/?$", address)]
    if not mirrors:
        raise FetchError("apt is not configured with a Debian mirror")
    return mirrors[0]


def _run(command: Sequence[str]) -> str:
    name = Path(command[0]).name
    try:
        done = subprocess.run(  # noqa: S603 - found by our caller, with arguments of our own
            command,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{name} was not done after {FETCH_TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        # A mirror's address may hold a password.
        said = re.sub(r"//[^/\s]+@", "//", (done.stderr or done.stdout).strip()[-1000:])
        raise FetchError(f"{name} failed with status {done.returncode}: {said}")
    return done.stdout


def _root(home: Path, machine: str) -> Path:
    return home / f"debian-{ARCHITECTURES[machine][0]}"


def _loader(root: Path, machine: str) -> tuple[str, ...]:
    loader = root / ARCHITECTURES[machine][1]
    return (str(loader), "--library-path", str(loader.parent))


def _command(root: Path, machine: str) -> tuple[str, ...]:
    return (
        *_loader(root, machine),
        str(root / "usr/sbin/mysqld"),
        "--no-defaults",
        f"--basedir={root / 'usr'}",
        f"--lc-messages-dir={root / 'usr/share/mysql'}",
    )
