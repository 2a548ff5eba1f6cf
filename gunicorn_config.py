"""gunicorn's settings: `gunicorn -c gunicorn_config.py app.main:app`.

The specification's names and numbers, except that nothing is written outside the project's own folders.
"""

import os
from pathlib import Path
from typing import Any

from app.config.settings import load_settings
from app.observability.metrics_multiprocess import add_up_ended, provide_folder
from app.runtime.capacity import gunicorn_workers, pool_limits
from app.runtime.hardening import harden
from app.server.arbiter import RollingArbiter

settings = load_settings()

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
backlog = 2048

# While one is replaced, at a reload (SIGHUP) or after its last request, there is one more (app/server/arbiter.py).
workers = gunicorn_workers(settings)
# Each worker loads the application itself. Loading it before the fork saves 4 to 8 % of the memory
# (docs/performance.md), and a reload (SIGHUP) would then bring neither new code nor new settings.
preload_app = False
forwarded_allow_ips = settings.forwarded_allow_ips
# uvicorn on uvloop and httptools, taught to lose no request when it shuts down. gunicorn's own "asgi" takes up to a
# quarter more CPU, loses requests when it is recycled, and ignores X-Forwarded-For (docs/decisions/worker-class.md).
worker_class = "app.server.worker.DrainingWorker"
# Not the specification's 1000, which a busy worker reaches every few seconds: each restart costs a cold start.
max_requests = 100_000
max_requests_jitter = 10_000

# A worker that does not answer its master for this long is replaced; requests of an asyncio worker may take longer.
timeout = 120
# A request that waits for the model is finished before the worker ends. It may have come 3 seconds after the signal
# (app/server/draining.py); the rest is for its log row and for closing.
graceful_timeout = int(settings.model.total_timeout_seconds) + 15
# Longer than nginx keeps an idle connection to us (60 s), so that it never sends a request on one that we are closing.
keepalive = 65

# The application writes one line per request itself; all logs go to standard error, as containers and systemd want it.
accesslog = None
errorlog = "-"
logger_class = "app.server.logger.SharedLogger"
loglevel = "info"
# It would be put under the home directory of the user that runs this.
control_socket_disable = True
proc_name = "image-classifier"
# gunicorn's heartbeat files belong into memory: on a disk, a slow fsync looks like a dead worker.
MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - gunicorn makes private files in it
worker_tmp_dir = str(MEMORY_DISK) if MEMORY_DISK.is_dir() else None
# Before the application is loaded, which counts there.
provide_folder(worker_tmp_dir)


def on_starting(server: Any) -> None:
    """Refuse more workers than MySQL's connections suffice for (`--workers` has been read by now), and harden all.

    From here on, the master replaces workers one at a time.
    """
    try:
        pool_limits(settings, server.cfg.workers)
    except ValueError as error:
        raise SystemExit(f"Wrong settings:\n  {error}") from None
    server.__class__ = RollingArbiter
    # The workers are forks of this process.
    harden()


def post_fork(server: Any, worker: Any) -> None:
    """Tell a worker how many they are, before it reads its settings."""
    os.environ["WEB_CONCURRENCY"] = str(server.num_workers)


def child_exit(server: Any, worker: Any) -> None:
    """Keep what a worker has counted that has ended."""
    try:
        add_up_ended(server.WORKERS)
    except Exception:
        server.log.exception("the counts of worker %s are not in /metrics", worker.pid)
