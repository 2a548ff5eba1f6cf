"""The order in which a server program is chosen, and what counts as a finished fetch; no network, no real server.

Programs are small scripts; the package is a real one, made with Debian's own tool.
"""

import os
import platform
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.mysql_debian import ARCHITECTURES, FetchError, fetch, unpacked_command
from scripts.mysql_programs import NoServerError, find_mariadb, find_mysql, get_mysql
from tests.servers.processes import start_process

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MACHINE = platform.machine()
MYSQL = "mysqld  Ver 8.4.6 for Linux on x86_64 (MySQL Community Server - GPL)"
OLD_MYSQL = "mysqld  Ver 5.7.44 for Linux on x86_64 (MySQL Community Server (GPL))"
UNPACKED = "mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))"
MARIADB = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)"

FETCH = """
import sys
from pathlib import Path
from scripts.mysql_debian import fetch
fetch(Path(sys.argv[1]), sys.argv[2])
"""

debian_only = pytest.mark.skipif(
    MACHINE not in ARCHITECTURES or shutil.which("dpkg-deb") is None,
    reason="needs a machine that Debian's tools run on",
)


def program(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    file.chmod(0o755)
    return file


def server(directory: Path, name: str, version: str) -> str:
    return str(program(directory / name, f"echo '{version}'").parent)


def unpacked(home: Path, version: str = UNPACKED, status: int = 0) -> None:
    """Put a finished fetch into `home`: its loader, which is what gets executed, names a version."""
    architecture, loader = ARCHITECTURES[MACHINE]
    program(home / f"debian-{architecture}" / loader, f"echo '{version}'", f"exit {status}")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A Debian package with a loader that names a version."""
    contents = tmp_path / "contents"
    architecture, loader = ARCHITECTURES[MACHINE]
    program(contents / loader, f"echo '{UNPACKED}'")
    control = contents / "DEBIAN/control"
    control.parent.mkdir()
    control.write_text(
        f"Package: mysql-server-core\nVersion: 9.7.4-2\nArchitecture: {architecture}\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: for a test\n"
    )
    file = tmp_path / "mysql-server-core.deb"
    subprocess.run(  # noqa: S603 - Debian's tool on our own files
        [str(shutil.which("dpkg-deb")), "--build", "--root-owner-group", contents, file],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return file


def apt(directory: Path, install: str, mirror: str = "http://mirror.example/debian/") -> str:
    """Make an apt-get that notes its calls in `directory`/calls and runs `install` to install; return a PATH."""
    program(
        directory / "apt-get",
        f'echo "$*" >> {directory}/calls',
        'case "$*" in',
        f"*indextargets*) echo http://security.example/debian-security/; echo {mirror};;",
        f'*install*) archives="$(dirname "${{1#--config-file=}}")/cache/archives"; {install};;',
        "esac",
    )
    return os.pathsep.join([str(directory), "/usr/bin", "/bin"])


def calls(directory: Path) -> list[str]:
    return (directory / "calls").read_text().splitlines()


@debian_only
def test_a_mysql_on_the_path_comes_first(tmp_path: Path, home: Path) -> None:
    unpacked(home)
    found = get_mysql(home, server(tmp_path / "bin", "mysqld", MYSQL))
    assert (found.version, found.is_mysql, found.stands_in_because) == ("8.4.6", True, None)
    assert found.command[0] == str(tmp_path / "bin/mysqld")


@debian_only
@pytest.mark.parametrize("version", [MARIADB, OLD_MYSQL, "who knows"])
def test_a_mysqld_that_is_no_current_mysql_does_not_count(tmp_path: Path, home: Path, version: str) -> None:
    unpacked(home)
    found = get_mysql(home, server(tmp_path / "bin", "mysqld", version))
    assert (found.version, found.is_mysql) == ("9.7.4-2", True)
    assert found.command[1] == "--library-path"


def test_a_mysqld_that_does_not_run_does_not_count(tmp_path: Path, home: Path) -> None:
    program(tmp_path / "bin/mysqld", f"echo '{MYSQL}'", "exit 1")
    assert find_mysql(home, str(tmp_path / "bin")) is None


def test_a_mysql_behind_a_mariadb_on_the_path_is_found(tmp_path: Path, home: Path) -> None:
    path = os.pathsep.join(
        [server(tmp_path / "first", "mysqld", MARIADB), "", server(tmp_path / "second", "mysqld", MYSQL)]
    )
    found = find_mysql(home, path)
    assert found is not None
    assert found.command[0] == str(tmp_path / "second/mysqld")


@pytest.mark.parametrize("name", ["mariadbd", "mysqld"])
def test_mariadb_is_found_under_both_names(tmp_path: Path, name: str) -> None:
    found = find_mariadb(server(tmp_path / "bin", name, MARIADB))
    assert found is not None
    assert (found.version, found.kind) == ("10.11.19-MariaDB-0+deb12u1", "mariadb")


def test_mariadb_stands_in_and_says_why(tmp_path: Path, home: Path) -> None:
    found = get_mysql(home, server(tmp_path / "bin", "mariadbd", MARIADB))
    assert not found.is_mysql
    assert found.stands_in_because is not None
    assert "Debian" in found.stands_in_because


def test_without_any_server_the_error_says_what_to_do(tmp_path: Path, home: Path) -> None:
    with pytest.raises(NoServerError, match=r"Install MySQL 8\.0 .*TEST_MYSQL_URL="):
        get_mysql(home, str(tmp_path / "empty"))


@debian_only
def test_a_fetched_server_that_does_not_run_is_reported(tmp_path: Path, home: Path) -> None:
    unpacked(home, status=1)
    with pytest.raises(NoServerError, match="does not run; remove"):
        get_mysql(home, apt(tmp_path / "bin", "exit 1"))


@debian_only
def test_fetch_unpacks_once(tmp_path: Path, home: Path, package: Path) -> None:
    path = apt(tmp_path / "bin", f'cp {package} "$archives"')
    found = get_mysql(home, path)
    assert (found.version, found.is_mysql) == ("9.7.4-2", True)
    assert fetch(home, path) == found.command == unpacked_command(home)
    assert sum("install" in call for call in calls(tmp_path / "bin")) == 1
    assert not list(home.glob("fetching-*"))


@debian_only
def test_fetch_asks_the_mirror_of_the_system_and_changes_nothing_of_it(
    tmp_path: Path, home: Path, package: Path
) -> None:
    kept = tmp_path / "kept"
    work = '"$(dirname "$archives")/.."'
    fetch(home, apt(tmp_path / "bin", f'cp -r {work} {kept}; cp {package} "$archives"'))
    assert "http://mirror.example/debian/ sid main" in (kept / "sources.list").read_text()
    settings = [line for line in (kept / "apt.conf").read_text().splitlines() if line.startswith("Dir::")]
    assert len(settings) == 7
    assert all(str(home) in line for line in settings)


@debian_only
def test_callers_at_the_same_time_share_one_fetch(tmp_path: Path, home: Path, package: Path) -> None:
    path = apt(tmp_path / "bin", f'cp {package} "$archives"')

    def run(_: int) -> int:
        command = [sys.executable, "-c", FETCH, str(home), path]
        return subprocess.run(command, cwd=PROJECT_ROOT, check=False).returncode  # noqa: S603 - our own script

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [0, 0, 0]
    assert sum("install" in call for call in calls(tmp_path / "bin")) == 1


@debian_only
def test_an_interrupted_fetch_is_not_a_finished_one(tmp_path: Path, home: Path, package: Path) -> None:
    reached = tmp_path / "reached"
    blocking = apt(tmp_path / "blocking", f'cp {package} "$archives"; : > {reached}; exec sleep 600')
    command = [sys.executable, "-c", FETCH, str(home), blocking]
    with start_process(command, ready=reached.exists, cwd=PROJECT_ROOT) as fetching:
        fetching.send_signal(signal.SIGKILL)
        assert fetching.wait(120) == 128 + signal.SIGKILL
    assert unpacked_command(home) is None
    assert len(list(home.glob("fetching-*"))) == 1
    assert fetch(home, apt(tmp_path / "bin", f'cp {package} "$archives"')) == unpacked_command(home)
    assert not list(home.glob("fetching-*"))


@debian_only
def test_packages_that_make_no_server_are_not_kept(tmp_path: Path, home: Path, package: Path) -> None:
    damaged = tmp_path / "damaged.deb"
    damaged.write_bytes(package.read_bytes()[:100])
    with pytest.raises(FetchError, match="dpkg-deb failed"):
        fetch(home, apt(tmp_path / "bin", f'cp {damaged} "$archives"'))
    assert unpacked_command(home) is None
    with pytest.raises(FetchError):
        fetch(home, apt(tmp_path / "bin", ":"))
    assert unpacked_command(home) is None


@debian_only
def test_what_apt_said_is_passed_on_without_credentials(tmp_path: Path, home: Path) -> None:
    said = "E: Failed to fetch http://user:s3cret@mirror.example/debian/x.deb 404"
    with pytest.raises(FetchError, match=r"apt-get failed with status 100: .*//mirror\.example") as caught:
        fetch(home, apt(tmp_path / "bin", f"echo '{said}' >&2; exit 100"))
    assert "s3cret" not in str(caught.value)


@debian_only
def test_a_system_without_a_debian_mirror_is_told_so(tmp_path: Path, home: Path) -> None:
    with pytest.raises(FetchError, match="not configured with a Debian mirror"):
        fetch(home, apt(tmp_path / "bin", "exit 1", mirror="http://mirror.example/ubuntu/"))


def test_a_foreign_machine_is_named(tmp_path: Path, home: Path) -> None:
    with pytest.raises(FetchError, match="riscv64"):
        fetch(home, apt(tmp_path / "bin", "exit 1"), machine="riscv64")
    assert unpacked_command(home, machine="riscv64") is None
    assert not home.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system is named instead")
def test_a_system_without_apt_is_told_so(tmp_path: Path, home: Path) -> None:
    with pytest.raises(FetchError, match="apt-get is not installed"):
        fetch(home, str(tmp_path), machine="x86_64")
