"""Which server program to run: a real MySQL before everything else, MariaDB only as a stand-in that says so."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.mysql_debian import FetchError, fetch, unpacked_command

# The first series with caching_sha2_password as the default, which the app's driver has to cope with.
OLDEST_MYSQL = (8, 0)


class NoServerError(Exception):
    """Neither MySQL nor MariaDB can be had here; the text says what to install or set."""


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """A server program: `command` starts it up to the options of one server, `version` is what it calls itself.

    `stands_in_because` is why a MariaDB has to do where MySQL was asked for, else None.
    """

    command: tuple[str, ...]
    version: str
    is_mysql: bool
    stands_in_because: str | None = None

    @property
    def kind(self) -> str:
        """`mysql` or `mariadb`, for names of directories: neither reads the other's data."""
        return "mysql" if self.is_mysql else "mariadb"


def server_home() -> Path:
    """Return the cache of servers and data directories: MYSQL_SERVER_HOME, or ~/.cache/mysql-server."""
    return Path(os.environ.get("MYSQL_SERVER_HOME") or "~/.cache/mysql-server").expanduser().absolute()


def search_path() -> str:
    """Return PATH with the directories that hold servers, which an ordinary user's PATH lacks on Debian."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def find_mysql(home: Path, path: str) -> ServerProgram | None:
    """Return a real MySQL that is here already: on `path`, or fetched into `home` earlier."""
    for candidate in _executables("mysqld", path):
        program = _identify((candidate, "--no-defaults"))
        if program is not None and program.is_mysql and _series(program.version) >= OLDEST_MYSQL:
            return program
    unpacked = unpacked_command(home)
    return None if unpacked is None else _identify(unpacked)


def find_mariadb(path: str) -> ServerProgram | None:
    """Return the first MariaDB on `path`, under either of its names."""
    for name in ("mariadbd", "mysqld"):
        for candidate in _executables(name, path):
            program = _identify((candidate, "--no-defaults"))
            if program is not None and not program.is_mysql:
                return program
    return None


def get_mysql(home: Path, path: str) -> ServerProgram:
    """Return the server for tests on MySQL: found, else fetched from Debian's packages, else MariaDB as a stand-in.

    Raises:
        NoServerError: none of them is possible.
    """
    if (found := find_mysql(home, path)) is not None:
        return found
    try:
        fetched = _identify(fetch(home, path))
        if fetched is None:
            raise FetchError(f"the server below {home} does not run; remove that directory")
    except FetchError as error:
        stand_in = find_mariadb(path)
        if stand_in is None:
            raise NoServerError(
                f"The tests need a MySQL server ({error}). Install MySQL 8.0 or later so that mysqld is on the PATH, "
                "or set TEST_MYSQL_URL=mysql+aiomysql://user:password@host:port/ to one whose databases may be dropped."
            ) from error
        return ServerProgram(stand_in.command, stand_in.version, is_mysql=False, stands_in_because=str(error))
    return fetched


def _executables(name: str, path: str) -> list[str]:
    found = (shutil.which(name, path=directory) for directory in path.split(os.pathsep) if directory)
    return [program for program in found if program is not None]


def _identify(command: tuple[str, ...]) -> ServerProgram | None:
    """Ask a program what it is: Debian's mysqld is a link to MariaDB, so a name proves nothing."""
    try:
        done = subprocess.run(  # noqa: S603 - a server program of this machine, with arguments of our own
            [*command, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"\bVer (\d\S*)", done.stdout)
    if done.returncode != 0 or version is None:
        return None
    return ServerProgram(command, version[1], is_mysql="mariadb" not in done.stdout.lower())


def _series(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
