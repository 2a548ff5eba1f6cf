"""One server: its data directory, its command line, and how to know that it answers.

A data directory is copied from a template that is initialised once per version; a template directory that bears its
final name is complete.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from scripts.mysql_debian import exclusive
from scripts.mysql_programs import ServerProgram

INITIALISE_TIMEOUT_SECONDS = 300
GREETING_TIMEOUT_SECONDS = 5
# A socket's path must fit in sockaddr_un: 104 bytes on macOS, 108 on Linux, with the closing NUL.
LONGEST_SOCKET_PATH = 100

# Scratch data needs no protection against a crash: no commit waits for the disk.
# https://dev.mysql.com/doc/refman/en/innodb-parameters.html
_RELAXED = ("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--innodb-doublewrite=OFF")
_SMALL = ("--innodb-buffer-pool-size=64M", "--performance-schema=OFF", "--max-connections=300")
_SMALL_LOG = {True: "--loose-innodb-redo-log-capacity=64M", False: "--innodb-log-file-size=32M"}
_NO_BINARY_LOG = "--loose-disable-log-bin"


class Setup(Enum):
    """How a server is set up."""

    SCRATCH = "scratch"
    """For tests: small, without a binary log; a crash of the machine loses the last transactions."""
    DURABLE = "durable"
    """To try things on: as small, but a commit is on the disk when it is answered."""
    DEFAULT = "default"
    """What a server has without any configuration: binary log, performance schema, 128 MB of buffer pool."""


class ServerStartError(Exception):
    """A server could not be initialised or started; the text ends with what it said."""


def prepare_template(program: ServerProgram, home: Path) -> Path:
    """Return the initialised data directory of `program` in `home`, making it if needed; it is for copying only.

    Raises:
        ServerStartError: the server could not initialise it.
    """
    template = home / "templates" / f"{program.kind}-{re.sub(r'[^0-9A-Za-z.]+', '-', program.version)}"
    with exclusive(home / "templates" / f"{template.name}.lock"):
        if not template.is_dir():
            work = template.with_name(f"{template.name}.initialising")
            shutil.rmtree(work, ignore_errors=True)
            _initialise(program, work)
            # The server's unique id: every copy gets its own.
            (work / "auto.cnf").unlink(missing_ok=True)
            work.rename(template)
    return template


def create_data_directory(program: ServerProgram, home: Path, target: Path) -> None:
    """Make `target` a fresh data directory of `program`: root may log in from this machine without a password.

    Raises:
        ServerStartError: the template in `home` could not be made.
    """
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    # Not shutil.copytree, which would bring a directory back that is removed meanwhile.
    _run(["cp", "-R", str(prepare_template(program, home)), str(partial)])
    partial.rename(target)


def server_command(program: ServerProgram, directory: Path, port: int, setup: Setup = Setup.SCRATCH) -> list[str]:
    """Return the command for a server on 127.0.0.1:`port` that keeps everything in `directory`.

    The data directory is `directory`/data, the socket `directory`/s.
    """
    options = [
        f"--datadir={directory / 'data'}",
        f"--tmpdir={directory}",
        f"--socket={socket_path(directory)}",
        f"--pid-file={directory / 'pid'}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--character-set-server=utf8mb4",
    ]
    if setup is not Setup.DEFAULT:
        options += [_NO_BINARY_LOG, *_SMALL, _SMALL_LOG[program.is_mysql]]
    if setup is Setup.SCRATCH:
        options += _RELAXED
    if program.is_mysql:
        options += ["--loose-mysqlx=OFF", "--secure-file-priv=NULL"]
    return [*program.command, *_user_option(), *options]


def socket_path(directory: Path) -> Path:
    """Return where a server of `directory` listens for this machine alone.

    Raises:
        ServerStartError: the path is too long for a socket.
    """
    path = directory / "s"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise ServerStartError(f"{path} is too long for a socket: use a shorter directory")
    return path


def greeting(address: Path | tuple[str, int]) -> str | None:
    """Return the version a server names in its first packet, or None if there is no server that takes connections.

    https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html
    """
    try:
        with _connect(address) as connection, connection.makefile("rb") as stream:
            packet = stream.read(int.from_bytes(stream.read(4)[:3], "little"))
    except OSError:
        return None
    if packet[:1] != b"\x0a":
        return None
    # MariaDB up to 10.11 puts 5.5.5- before its version.
    return packet[1:].partition(b"\0")[0].decode("ascii", "replace").removeprefix("5.5.5-")


def _connect(address: Path | tuple[str, int]) -> socket.socket:
    if not isinstance(address, Path):
        return socket.create_connection(address, GREETING_TIMEOUT_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(GREETING_TIMEOUT_SECONDS)
    try:
        connection.connect(str(address))
    except OSError:
        connection.close()
        raise
    return connection


def _initialise(program: ServerProgram, data: Path) -> None:
    if program.is_mysql:
        command = [*program.command, "--initialize-insecure", *_user_option(), "--secure-file-priv=NULL"]
    else:
        beside = os.pathsep.join([str(Path(program.command[0]).resolve().parent), os.environ.get("PATH", os.defpath)])
        installer = shutil.which("mariadb-install-db", path=beside)
        if installer is None:
            raise ServerStartError("mariadb-install-db is not on the PATH, so MariaDB cannot be initialised")
        command = [installer, "--no-defaults", *_user_option(), "--auth-root-authentication-method=normal"]
        command += ["--skip-test-db"]
    _run([*command, f"--datadir={data}", *_SMALL, _SMALL_LOG[program.is_mysql], *_RELAXED[1:]])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - a server program of this machine, with arguments of our own
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INITIALISE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerStartError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise ServerStartError(f"{command[0]} failed with status {done.returncode}:\n{done.stdout[-4000:]}")


def _user_option() -> list[str]:
    """A server that root starts insists on being told a user; it stays root, the owner of the directories."""
    return ["--user=root"] if os.geteuid() == 0 else []
