"""What can happen to MySQL, and on the way there."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pymysql

from bench.faults.database import USER
from bench.faults.disk import empty, fill, small_disk
from bench.faults.site import Fault, Site

SLOW_SECONDS = 0.5
# Longer than one attempt of ours (app/database/transactions.py), so that its end is seen too.
FROZEN_SECONDS = 10.0
# All the connections that the server has, in the end: none is left for the service.
OTHERS = 20
OTHER_USER = "other_program"
USUAL_CONNECTIONS = 151
# MySQL's files take half of it at the start: redo and undo logs, tables, the binary log.
DISK_MEGABYTES = 400
SPOOL_MEGABYTES = 0.0625


@contextmanager
def stopped(site: Site) -> Iterator[None]:
    """The server is shut down in order, as for an upgrade."""
    site.database.end(signal.SIGTERM)
    yield
    site.database.start()


@contextmanager
def killed(site: Site) -> Iterator[None]:
    """The server crashes, or the kernel kills it for its memory."""
    site.database.end(signal.SIGKILL)
    yield
    site.database.start()


@contextmanager
def frozen(site: Site) -> Iterator[None]:
    """The server does nothing, with its connections open, as when its machine or its disk hangs."""
    site.database.freeze()
    try:
        yield
    finally:
        site.database.thaw()


@contextmanager
def slow(site: Site) -> Iterator[None]:
    """Each answer of the server takes SLOW_SECONDS more."""
    proxy = site.proxy_in_use
    proxy.delay_seconds = SLOW_SECONDS
    yield
    proxy.delay_seconds = 0.0


@contextmanager
def read_only(site: Site) -> Iterator[None]:
    """The server takes no writes, as one that is no primary any more."""
    # MariaDB has no other.
    site.database.run(f"SET GLOBAL {'super_read_only' if site.database.program.is_mysql else 'read_only'} = ON")
    yield
    # Switches the other one off too.
    site.database.run("SET GLOBAL read_only = OFF")


@contextmanager
def out_of_connections(site: Site) -> Iterator[None]:
    """Other programs hold all connections of the server; those of the service are closed, and it gets no new one."""
    with ExitStack() as stack:
        # One for all of it: there might be none for another.
        ours = stack.enter_context(closing(site.database.connect())).cursor()
        ours.execute(f"CREATE USER '{OTHER_USER}'@'%'")
        ours.execute(f"SET GLOBAL max_connections = {OTHERS}")
        taken = 1
        while taken < OTHERS:
            ours.execute("SELECT id FROM information_schema.processlist WHERE user = %s", (USER,))
            for (number,) in ours.fetchall():
                # It may have gone by itself.
                with suppress(pymysql.MySQLError):
                    ours.execute("KILL %s", (number,))
            with suppress(pymysql.MySQLError):
                stack.enter_context(closing(site.database.connect(OTHER_USER)))
                taken += 1
        yield
        ours.execute(f"SET GLOBAL max_connections = {USUAL_CONNECTIONS}")


@contextmanager
def disk_full(site: Site) -> Iterator[None]:
    """The disk of the server has no byte left.

    MySQL waits in the COMMIT until there is room, and looks once a minute: the operator who has made room does not wait
    for that, and starts the server anew. https://dev.mysql.com/doc/refman/8.4/en/full-disk.html
    """
    fill(site.database.directory)
    yield
    empty(site.database.directory)
    # In order it would not end before that minute is over.
    site.database.end(signal.SIGKILL)
    site.database.start()


@contextmanager
def cut_in_commit(site: Site) -> Iterator[None]:
    """One connection in `proxy.CUT_ONE_OF` is cut in its COMMIT, before or after the server has carried it out."""
    proxy = site.proxy_in_use
    proxy.cuts_commits = True
    yield
    proxy.cuts_commits = False
    site.notes.append(f"{proxy.cut} commits were cut")


@contextmanager
def spool_full(site: Site) -> Iterator[None]:
    """The database is stopped, and there is hardly any room for what is kept for it meanwhile."""
    site.database.end(signal.SIGTERM)
    yield
    site.database.start()


FAULTS = [
    Fault("stopped", stopped),
    Fault("killed", killed),
    Fault("frozen", frozen, seconds=FROZEN_SECONDS),
    Fault("slow", slow, with_proxy=True),
    Fault("read-only", read_only),
    Fault("out-of-connections", out_of_connections),
    Fault("disk-full", disk_full, prepare_folder=small_disk("mysql", DISK_MEGABYTES)),
    Fault("cut-in-commit", cut_in_commit, with_proxy=True),
    Fault("spool-full", spool_full, prepare_folder=small_disk("data/spool", SPOOL_MEGABYTES)),
]
