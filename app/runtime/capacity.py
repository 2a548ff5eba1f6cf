"""How many processes serve, and what each may take of what MySQL gives all of them.

The command that starts the processes tells each their number in WEB_CONCURRENCY (gunicorn_config.py, app/__main__.py;
uvicorn takes it from there). Without it, there is one.
"""

from typing import NamedTuple

from app.config.database import DatabaseSettings
from app.config.settings import Settings
from app.runtime.cgroups import available_cores, available_memory_bytes
from app.runtime.memory_budget import UPLOAD_MEMORY_BYTES

# One writes the log, one is for everything else.
MIN_CONNECTIONS = 2

# What workers may fill of the memory; the rest is for the decoding of large photos, the kernel's cache and neighbours.
MEMORY_SHARE = 0.75
# Measured with smaps_rollup (docs/performance.md): a worker at work, an entry of its cache, and the local model.
WORKER_BYTES = 120 * 1024 * 1024
CACHE_ENTRY_BYTES = 470
LOCAL_MODEL_BYTES = 330 * 1024 * 1024


class PoolLimits(NamedTuple):
    """Connections of one process: `size` stay open, `overflow` more are opened under load."""

    size: int
    overflow: int


def gunicorn_workers(settings: Settings) -> int:
    """Return how many workers gunicorn starts: WEB_CONCURRENCY, else the specification's 2 x cores + 1.

    There are fewer, but one at least, where the memory suffices for fewer, or on a machine of very many cores MySQL's
    connections do.
    """
    if settings.workers is not None:
        return settings.workers
    workers = min(2 * available_cores() + 1, int(MEMORY_SHARE * available_memory_bytes() / worker_bytes(settings)))
    if settings.database_url.get_backend_name() != "sqlite":
        workers = min(workers, settings.database.max_connections_total // MIN_CONNECTIONS)
    return max(1, workers)


def worker_bytes(settings: Settings) -> int:
    """Return the memory that a worker may come to need: with a full cache, and with all uploads that it admits."""
    needed = WORKER_BYTES + UPLOAD_MEMORY_BYTES + CACHE_ENTRY_BYTES * settings.cache.memory_entries
    return needed + LOCAL_MODEL_BYTES if settings.model.looks_locally else needed


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
    return _within(database, share)


def replica_pool_limits(settings: Settings) -> PoolLimits:
    """Return one process's share of the connections to the read replica, which has as many as the main server."""
    return _within(settings.database, settings.database.max_connections_total // (settings.workers or 1))


def _within(database: DatabaseSettings, share: int) -> PoolLimits:
    size = min(database.pool_size, share)
    return PoolLimits(size, min(database.max_overflow, share - size))
