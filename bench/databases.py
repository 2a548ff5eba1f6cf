"""The databases of a run: fresh SQLite files, and fresh databases on one MySQL server that waits for the disk."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, create_engine, insert, text
from sqlalchemy.engine import URL, make_url

from app.categories import Category
from app.clock import utc_now
from app.database.tables.classification import CachedImage
from app.database.tables.schema import metadata
from scripts.mysql_instance import ServerStartError, Setup
from tests.servers.databases import start_servers

FSYNC_PROBES = 50
FSYNC_BYTES = 4096
# MySQL's own defaults; a server of another setup has less.
# https://dev.mysql.com/doc/refman/9.7/en/innodb-parameters.html
DEFAULT_BUFFER_POOL_BYTES = 128 * 1024 * 1024
DEFAULT_REDO_LOG_BYTES = 100 * 1024 * 1024
RESIZE_WITHIN_SECONDS = 120


class NotDurableError(Exception):
    """The server may lose committed rows, so its numbers would flatter."""


@dataclass(frozen=True, slots=True)
class Database:
    """`url` is the service's, with a password perhaps; `engine` is ours, for reading the books."""

    url: str = field(repr=False)
    engine: Engine


@dataclass(frozen=True, slots=True)
class MysqlServer:
    """A server; `name` says which, such as "MySQL 9.7.4". `is_ours` is false for that of TEST_MYSQL_URL."""

    name: str
    is_ours: bool
    url: URL = field(repr=False)
    engine: Engine

    @contextmanager
    def database(self, *, with_tables: bool = False) -> Iterator[Database]:
        """A database that the service will create, or one with our tables; it is dropped at the end."""
        url = self.url.set(database=f"bench_{uuid4().hex[:12]}")
        engine = create_engine(url.set(drivername="mysql+pymysql"))
        try:
            if with_tables:
                self._run(f"CREATE DATABASE {url.database} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
                metadata.create_all(engine)
            yield Database(url.render_as_string(hide_password=False), engine)
        finally:
            engine.dispose()
            self._run(f"DROP DATABASE IF EXISTS {url.database}")

    def set_memory(self, *, buffer_pool_bytes: int, redo_log_bytes: int = DEFAULT_REDO_LOG_BYTES) -> bool:
        """Resize what InnoDB works with and wait for it; return False where the server is not ours to change.

        Raises:
            ServerStartError: it is still at it after RESIZE_WITHIN_SECONDS.
        """
        if not self.is_ours:
            return False
        self._run(f"SET GLOBAL innodb_redo_log_capacity = {redo_log_bytes}")
        self._run(f"SET GLOBAL innodb_buffer_pool_size = {buffer_pool_bytes}")
        deadline = time.monotonic() + RESIZE_WITHIN_SECONDS
        status = "SHOW STATUS LIKE 'Innodb_buffer_pool_pages_total'"
        with self.engine.connect() as connection:
            page_bytes = int(connection.execute(text("SELECT @@innodb_page_size")).scalar_one())
            # Within a tenth: a part of the memory is not for pages.
            while abs(int(connection.execute(text(status)).one()[1]) * page_bytes / buffer_pool_bytes - 1) > 0.1:
                if time.monotonic() > deadline:
                    raise ServerStartError(f"the buffer pool did not become {buffer_pool_bytes} bytes")
                time.sleep(0.1)
        return True

    def _run(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.execute(text(statement))


@contextmanager
def sqlite_database(file: Path) -> Iterator[Database]:
    """A database in a file, which the service will create."""
    url = f"sqlite:///{file}"
    engine = create_engine(url)
    try:
        yield Database(url, engine)
    finally:
        engine.dispose()


@contextmanager
def mysql_server(setup: Setup = Setup.DEFAULT, *, must_be_durable: bool = True) -> Iterator[MysqlServer]:
    """A real server, with the memory that MySQL takes by default; TEST_MYSQL_URL names another one, set up already.

    Our own server is durable; `must_be_durable` matters to that of TEST_MYSQL_URL.

    Raises:
        NoServerError, ServerStartError, ProcessFailedError: there is no server, or it did not start.
        NotDurableError: the server does not wait for the disk, though it must.
    """
    servers = start_servers(setup)
    try:
        url = make_url(servers.mysql_url)
        engine = create_engine(url.set(drivername="mysql+pymysql", database=""), isolation_level="AUTOCOMMIT")
        try:
            if must_be_durable:
                require_durable(engine)
            kind = "MySQL" if servers.mysql_is_real else "MariaDB"
            is_ours = servers.mysql_is_real and not os.environ.get("TEST_MYSQL_URL")
            server = MysqlServer(f"{kind} {servers.mysql_version.partition('-')[0]}", is_ours, url, engine)
            server.set_memory(buffer_pool_bytes=DEFAULT_BUFFER_POOL_BYTES)
            yield server
        finally:
            engine.dispose()
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


def insert_entries(engine: Engine, image_hashes: Sequence[str]) -> None:
    """Put photos into the cache as if they had been classified once, in the tables that the service has made."""
    now = utc_now()
    rows = [
        {
            "image_hash": image_hash,
            "category": Category.FOODS,
            "confidence": 0.92,
            "description": "一盘精美的意大利面，色香味俱全",
            "model_used": "bench",
            "hit_count": 1,
            "created_at": now,
            "last_hit_at": now,
        }
        for image_hash in image_hashes
    ]
    with engine.begin() as connection:
        connection.execute(insert(CachedImage), rows)


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
