"""`python -m app.runtime.healthcheck`: whether this container's service answers, or (`worker`) its task worker lives.

The health check of the image, twice a minute: it imports next to nothing, and asks neither database nor model, so
that an outage of theirs restarts no container.
"""

import contextlib
import http.client
import os
import sys
import tempfile
import time
from pathlib import Path

# A worker that decodes the largest photo on a busy machine may skip a few beats.
SILENCE_SECONDS = 60.0
ANSWER_TIMEOUT_SECONDS = 4.0


def heartbeat_file() -> Path:
    """Return the file that a task worker touches while its event loop turns; a container has one of them."""
    return Path(tempfile.gettempdir()) / "image-classifier-worker.alive"


def beat() -> None:
    """Touch the heartbeat's file; where it cannot be written, only the health check suffers."""
    with contextlib.suppress(OSError):
        # Others may write to the folder, too: a link is not followed.
        descriptor = os.open(heartbeat_file(), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)


def worker_lives() -> bool:
    """Return whether a task worker has shown within the last minute that it lives."""
    try:
        return time.time() - heartbeat_file().stat().st_mtime < SILENCE_SECONDS
    except FileNotFoundError:
        return False


def service_answers(port: int) -> bool:
    """Return whether the service on this machine says that it lives."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/api/v1/health/live")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """Return the exit status that Docker and Kubernetes want: 0 for well."""
    if arguments == ["worker"]:
        return 0 if worker_lives() else 1
    return 0 if service_answers(int(os.environ.get("APP_PORT") or 8000)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
