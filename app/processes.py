"""How many processes serve, and what each may take of what MySQL gives all of them.

Whoever starts the processes tells each their number in WEB_CONCURRENCY (gunicorn_config.py, app/__main__.py; uvicorn
takes it from there). Where nobody does, there is one.
"""

from typing import NamedTuple

from app.config import DatabaseSettings, Settings
from app.cores import available_cores

# One writes the log, one looks up, and one, outside the pool, shows that the process lives (app/database/presence.py).
MIN_CONNECTIONS = 3
CONNECTIONS_OUTSIDE_POOL = 1


class PoolLimits(NamedTuple):
    """Connections of one process: `size` stay open, `overflow` more are opened under load."""

    size: int
    overflow: int


def gunicorn_workers(settings: Settings) -> int:
    """Return how many workers gunicorn starts: WEB_CONCURRENCY, else the specification's 2 x cores + 1.

    On a machine of very many cores there are as many as MySQL's connections suffice for.
    """
    if settings.workers is not None:
        return settings.workers
    workers = 2 * available_cores() + 1
    if settings.database_url.get_backend_name() == "sqlite":
        return workers
    return min(workers, settings.database.max_connections_total // MIN_CONNECTIONS)


def pool_limits(settings: Settings, processes: int | None = None) -> PoolLimits:
    """Return one process's share of MYSQL_MAX_CONNECTIONS_TOTAL, as far as it needs it.

    Args:
        processes: how many share it; left out: as many as WEB_CONCURRENCY says, else one.

    Raises:
        ValueError: the share is too small to work with; the text says what to change. Never with SQLite.
    """
    database = settings.database
    if settings.database_url.get_backend_name() == "sqlite":
        return PoolLimits(database.pool_size, database.max_overflow)
    processes = processes or settings.workers or 1
    share = database.max_connections_total // processes
    if share < MIN_CONNECTIONS:
        raise ValueError(
            f"MYSQL_MAX_CONNECTIONS_TOTAL={database.max_connections_total} is too little for {processes} workers, "
            f"which need {MIN_CONNECTIONS} connections each: set WEB_CONCURRENCY to "
            f"{database.max_connections_total // MIN_CONNECTIONS} or less, or raise it together with MySQL's "
            "max_connections."
        )
    return _within(database, share - CONNECTIONS_OUTSIDE_POOL)


def replica_pool_limits(settings: Settings) -> PoolLimits:
    """Return one process's share of the connections to the read replica, which has as many to give as the main server.

    No process has a connection outside this pool.
    """
    return _within(settings.database, settings.database.max_connections_total // (settings.workers or 1))


def _within(database: DatabaseSettings, share: int) -> PoolLimits:
    size = min(database.pool_size, share)
    return PoolLimits(size, min(database.max_overflow, share - size))
