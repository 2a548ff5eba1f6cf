"""A MySQL server for tests and for trying things out, without installing one; standard library only.

    python scripts/mysql_server.py which              name the server program the tests would use
    python scripts/mysql_server.py fetch              have it ready: download and initialise what is missing
    python scripts/mysql_server.py start [--port N]   start one that stays, and print its URL
    python scripts/mysql_server.py stop               shut that one down

TEST_MYSQL_URL, where it is set, is the server for tests, and nothing is fetched. Otherwise: a MySQL on the PATH, one
fetched from Debian's packages into MYSQL_SERVER_HOME (default ~/.cache/mysql-server), MariaDB as a stand-in. The
server that `start` leaves running keeps its data below MYSQL_SERVER_HOME and commits durably; root has no password,
on 127.0.0.1 only.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.mysql_debian import FetchError, exclusive
from scripts.mysql_instance import (
    ServerStartError,
    Setup,
    create_data_directory,
    greeting,
    prepare_template,
    server_command,
    socket_path,
)
from scripts.mysql_programs import (
    NoServerError,
    ServerProgram,
    find_mariadb,
    find_mysql,
    get_mysql,
    search_path,
    server_home,
)

DEFAULT_PORT = 33306
START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 60
TEST_URL_IS_SET = "TEST_MYSQL_URL is set: the tests use that server."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0 done, 1 not possible (the reason is on standard error)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["which", "fetch", "start", "stop"])
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"for start (default {DEFAULT_PORT})")
    chosen = parser.parse_args(arguments)
    try:
        match chosen.command:
            case "which":
                return which()
            case "fetch":
                return fetch()
            case "start":
                print(start(server_home(), chosen.port))
            case "stop":
                print("stopped" if stop(server_home()) else "no server was running")
    except (FetchError, NoServerError, ServerStartError, OSError) as error:
        print(f"mysql_server: {error}", file=sys.stderr)
        return 1
    return 0


def which() -> int:
    """Print which server the tests would use, as far as it can be known without fetching it."""
    if os.environ.get("TEST_MYSQL_URL"):
        print(TEST_URL_IS_SET)
    elif (found := find_mysql(server_home(), search_path())) is not None:
        print(_describe(found))
    else:
        print("No MySQL is here yet; `fetch` tries to get one from Debian's packages.")
    if (mariadb := find_mariadb(search_path())) is not None:
        print(_describe(mariadb))
    return 0


def fetch() -> int:
    """Have every server that the tests use ready to start."""
    if os.environ.get("TEST_MYSQL_URL"):
        print(TEST_URL_IS_SET)
        return 0
    for program in (get_mysql(server_home(), search_path()), find_mariadb(search_path())):
        if program is not None:
            prepare_template(program, server_home())
            print(_describe(program))
    return 0


def start(home: Path, port: int) -> str:
    """Start the server that stays, unless it runs already, and return its URL.

    Raises:
        NoServerError: there is no server program.
        ServerStartError: it did not start; a port in use is the usual reason.
    """
    standing = home / "standing"
    with exclusive(home / "standing.lock"):
        standing.mkdir(exist_ok=True)
        with (standing / "lock").open("a") as running:
            if not _try_lock(running.fileno()):
                return (standing / "url").read_text()
            program = get_mysql(home, search_path())
            if program.stands_in_because is not None:
                print(f"MariaDB stands in for MySQL: {program.stands_in_because}", file=sys.stderr)
            directory = standing / program.kind
            directory.mkdir(exist_ok=True)
            if not (directory / "data").is_dir():
                create_data_directory(program, home, directory / "data")
            socket_path(directory).unlink(missing_ok=True)
            url = f"mysql+aiomysql://root@127.0.0.1:{port}/"
            (standing / "url").write_text(url)
            with (directory / "log").open("wb") as log:
                # It inherits the lock, which thereby says whether it lives and whether `process` is still its own.
                process = subprocess.Popen(  # noqa: S603 - a server program of this machine
                    server_command(program, directory, port, Setup.DURABLE),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[running.fileno()],
                )
            (standing / "process").write_text(str(process.pid))
            _await_greeting(process, directory)
            return url


def stop(home: Path) -> bool:
    """Shut the server that stays down and wait for its end; return whether there was one."""
    standing = home / "standing"
    with exclusive(home / "standing.lock"):
        standing.mkdir(exist_ok=True)
        with (standing / "lock").open("a") as running:
            if _try_lock(running.fileno()):
                return False
            pid = int((standing / "process").read_text())
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
            while not _try_lock(running.fileno()):
                if time.monotonic() > deadline:
                    raise ServerStartError(f"the server (process {pid}) did not stop in {STOP_TIMEOUT_SECONDS} s")
                time.sleep(0.05)
    return True


def _await_greeting(process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while greeting(socket_path(directory)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            said = (directory / "log").read_text(errors="replace")[-4000:]
            raise ServerStartError(f"the server did not start:\n{said}")
        time.sleep(0.02)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _describe(program: ServerProgram) -> str:
    name = "MySQL" if program.is_mysql else "MariaDB"
    server = next(part for part in program.command if part.endswith(("mysqld", "mariadbd")))
    if program.stands_in_because is not None:
        return f"MariaDB {program.version} ({server}) stands in for MySQL: {program.stands_in_because}"
    return f"{name} {program.version} ({server})"


if __name__ == "__main__":
    sys.exit(main())
