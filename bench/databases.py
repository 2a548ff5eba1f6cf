"""The databases of a run: a fresh SQLite file, and a fresh database on a MySQL server that waits for the disk."""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from tests.servers.databases import start_servers

FSYNC_PROBES = 50
FSYNC_BYTES = 4096


class NotDurableError(Exception):
    """The server may lose committed rows, so its numbers would flatter."""


@dataclass(frozen=True, slots=True)
class Database:
    """`url` is the service's, with a password perhaps; `engine` is ours, for reading the books."""

    name: str
    url: str = field(repr=False)
    engine: Engine


@contextmanager
def sqlite_database(file: Path) -> Iterator[Database]:
    """A database in a file, which the service will create."""
    url = f"sqlite:///{file}"
    engine = create_engine(url)
    try:
        yield Database("SQLite", url, engine)
    finally:
        engine.dispose()


@contextmanager
def mysql_database(*, must_be_durable: bool) -> Iterator[Database]:
    """A database on a real server, which the service will create; it is dropped at the end.

    Our own server is durable; `must_be_durable` matters to that of TEST_MYSQL_URL.

    Raises:
        NoServerError, ServerStartError, ProcessFailedError: there is no server, or it did not start.
        NotDurableError: the server does not wait for the disk, though it must.
    """
    servers = start_servers(durable=True)
    try:
        url = make_url(servers.mysql_url).set(database=f"bench_{uuid4().hex[:12]}")
        server = create_engine(url.set(drivername="mysql+pymysql", database=""), isolation_level="AUTOCOMMIT")
        engine = create_engine(url.set(drivername="mysql+pymysql"))
        try:
            if must_be_durable:
                require_durable(server)
            kind = "MySQL" if servers.mysql_is_real else "MariaDB"
            version = servers.mysql_version.partition("-")[0]
            yield Database(f"{kind} {version}", url.render_as_string(hide_password=False), engine)
        finally:
            engine.dispose()
            with server.connect() as connection:
                connection.execute(text(f"DROP DATABASE IF EXISTS {url.database}"))
            server.dispose()
    finally:
        servers.stop()


def require_durable(server: Engine) -> None:
    """Check that a commit of this server waits for the disk; raises NotDurableError."""
    # https://dev.mysql.com/doc/refman/8.4/en/innodb-parameters.html#sysvar_innodb_flush_log_at_trx_commit
    query = "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog"
    with server.connect() as connection:
        flush, has_binlog, sync_binlog = connection.execute(text(query)).one()
    if flush != 1 or (has_binlog and sync_binlog != 1):
        raise NotDurableError(
            f"innodb_flush_log_at_trx_commit={flush} and sync_binlog={sync_binlog}: set both to 1 to measure."
        )


def median_fsync_ms(folder: Path) -> float:
    """Return how long the disk under `folder` takes to keep 4 KB, in milliseconds: no durable commit is faster."""
    milliseconds = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(FSYNC_PROBES):
            file.write(bytes(FSYNC_BYTES))
            began = time.perf_counter()
            os.fsync(file.fileno())
            milliseconds.append((time.perf_counter() - began) * 1000)
    return statistics.median(milliseconds)
