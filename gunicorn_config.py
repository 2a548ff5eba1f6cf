"""gunicorn's settings: `gunicorn -c gunicorn_config.py app.main:app`.

The specification's names and numbers, except that nothing is written outside the project's own folders.
"""

import os
from pathlib import Path

from app.config import load_settings

settings = load_settings()

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
backlog = 2048

workers = settings.workers or (os.cpu_count() or 1) * 2 + 1
forwarded_allow_ips = settings.forwarded_allow_ips
worker_class = "uvicorn_worker.UvicornWorker"
# Not the specification's 1000, which a busy worker reaches every few seconds: each restart costs a cold start.
max_requests = 100_000
max_requests_jitter = 10_000

# A worker that does not answer its master for this long is replaced; requests of an asyncio worker may take longer.
timeout = 120
# A request that waits for the model is finished before the worker leaves.
graceful_timeout = int(settings.model.total_timeout_seconds) + 5
keepalive = 5

# The application writes one line per request itself.
accesslog = None
errorlog = "-"
loglevel = "info"
# It would be put under the home directory of whoever runs this.
control_socket_disable = True
proc_name = "image-classifier"
# gunicorn's heartbeat files belong into memory: on a disk, a slow fsync looks like a dead worker.
MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - gunicorn makes private files in it
worker_tmp_dir = str(MEMORY_DISK) if MEMORY_DISK.is_dir() else None
