"""A Galera cluster of MariaDB nodes on this machine, each of which can be killed and brought back.

A node that was killed finds its own position first, as Debian's galera_recovery does: then it needs only what it has
missed, not everything.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from scripts.mysql_instance import create_data_directory
from scripts.mysql_programs import NoServerError, ServerProgram, find_mariadb, search_path, server_home
from tests.servers.processes import RunningProcess, free_port, start_process
from tests.servers.programs import get_program

# https://packages.debian.org/galera-4 has no program, only this.
LIBRARY = Path("/usr/lib/galera/libgalera_smm.so")
READY_WITHIN_SECONDS = 180
USER, PASSWORD = "classifier", "only-for-tests"
# What deploy/haproxy.cfg logs in as to see how a node is.
CHECK_USER = "haproxy_check"


@dataclass(slots=True)
class Node:
    """One node; `url` leads to its database `image_classifier`."""

    directory: Path
    port: int
    cluster_port: int
    transfer_port: int
    snapshot_port: int
    process: RunningProcess | None = None

    @property
    def url(self) -> str:
        return f"mysql+aiomysql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/image_classifier"

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement as root and return its rows; it is committed."""
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall())

    def is_synced(self) -> bool:
        """Return whether it takes part in the cluster and has caught up."""
        try:
            return self.query("SHOW STATUS LIKE 'wsrep_local_state_comment'") == [
                ("wsrep_local_state_comment", "Synced")
            ]
        except pymysql.MySQLError:
            return False


@dataclass(slots=True)
class GaleraCluster:
    """The nodes, in the order in which deploy/haproxy.cfg prefers them."""

    program: ServerProgram
    nodes: list[Node]
    stack: ExitStack = field(repr=False)

    def start(self, node: Node, *, bootstrap: bool = False) -> None:
        """Start a node and return when it has caught up with the others; `bootstrap`: there are no others yet."""
        options = ["--wsrep-new-cluster"] if bootstrap else []
        if (node.directory / "data" / "grastate.dat").exists():
            options.append(f"--wsrep-start-position={self._position(node)}")
        node.process = self.stack.enter_context(
            start_process(
                [*self._command(node), *options],
                ready=node.is_synced,
                ready_within_seconds=READY_WITHIN_SECONDS,
                grace_seconds=0,
            )
        )

    def _position(self, node: Node) -> str:
        done = subprocess.run(  # noqa: S603 - a server program of this machine
            [*self._command(node), "--wsrep-recover"], capture_output=True, text=True, timeout=60, check=True
        )
        found = re.search(r"WSREP: Recovered position: (\S+)", done.stderr)
        assert found is not None, done.stderr
        return found[1]

    def _command(self, node: Node) -> list[str]:
        addresses = ",".join(f"127.0.0.1:{each.cluster_port}" for each in self.nodes)
        provider = {
            "gmcast.listen_addr": f"tcp://127.0.0.1:{node.cluster_port}",
            "ist.recv_addr": f"127.0.0.1:{node.transfer_port}",
            "gcache.size": "64M",
            **PROVIDER_OPTIONS,
        }
        return [
            *self.program.command,
            *(["--user=mysql"] if os.geteuid() == 0 else []),
            f"--datadir={node.directory / 'data'}",
            f"--tmpdir={node.directory}",
            f"--socket={node.directory / 's'}",
            f"--port={node.port}",
            "--bind-address=127.0.0.1",
            "--character-set-server=utf8mb4",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--performance-schema=OFF",
            "--wsrep-on=ON",
            f"--wsrep-provider={LIBRARY}",
            "--wsrep-cluster-name=test",
            f"--wsrep-cluster-address=gcomm://{addresses}",
            f"--wsrep-node-address=127.0.0.1:{node.cluster_port}",
            f"--wsrep-sst-receive-address=127.0.0.1:{node.snapshot_port}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-provider-options={';'.join(f'{name}={value}' for name, value in provider.items())}",
            *(f"--{option}" for option in SERVER_OPTIONS),
        ]


# What docs/scaling.md tells operators to set.
SERVER_OPTIONS: Sequence[str] = (
    "binlog-format=ROW",
    "innodb-autoinc-lock-mode=2",
    # The other nodes have the transaction too: it is on a disk within a second.
    "innodb-flush-log-at-trx-commit=2",
    "wsrep-slave-threads=2",
)
PROVIDER_OPTIONS = {"evs.suspect_timeout": "PT3S", "evs.inactive_timeout": "PT6S"}


@contextmanager
def running_galera(nodes: int = 3) -> Iterator[GaleraCluster]:
    """Run a cluster for the length of the block, with an empty database and a user for it.

    Raises:
        NoServerError: MariaDB, Galera or rsync is not here and cannot be installed.
    """
    get_program("mariadbd", "mariadb-server")
    get_program("rsync", "rsync")
    if not LIBRARY.exists():
        get_program("garbd", "galera-4")
    program = find_mariadb(search_path())
    if program is None or not LIBRARY.exists():
        raise NoServerError("The tests need a Galera cluster: apt-get install mariadb-server galera-4 rsync")
    with tempfile.TemporaryDirectory(prefix="galera-", ignore_cleanup_errors=True) as directory, ExitStack() as stack:
        cluster = GaleraCluster(program, [], stack)
        for number in range(1, nodes + 1):
            home = Path(directory, f"n{number}")
            home.mkdir()
            create_data_directory(program, server_home(), home / "data")
            _give_away(Path(directory))
            cluster.nodes.append(Node(home, free_port(), free_port(), free_port(), free_port()))
        first, *others = cluster.nodes
        cluster.start(first, bootstrap=True)
        first.query("CREATE DATABASE image_classifier CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
        first.query(f"CREATE USER {USER} IDENTIFIED BY '{PASSWORD}'")
        first.query(f"GRANT ALL PRIVILEGES ON *.* TO {USER}")
        first.query(f"CREATE USER {CHECK_USER}")
        for other in others:
            cluster.start(other)
        yield cluster


def _give_away(directory: Path) -> None:
    """Make the directory the server's own: as root, rsync's daemon would be nobody, who may read nothing of root's."""
    if os.geteuid() == 0:
        for path in (directory, *directory.rglob("*")):
            shutil.chown(path, "mysql", "mysql")
