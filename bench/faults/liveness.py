"""Asks /health/live all the time, each time on a new connection, as an orchestrator does."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PROBE_EVERY_SECONDS = 0.05
PROBE_TIMEOUT_SECONDS = 60.0


class Liveness:
    """The longest time without an answer 200 so far, in seconds."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._last = time.monotonic()
        self._longest = 0.0
        self._ending = threading.Event()

    @property
    def longest_silence_seconds(self) -> float:
        return max(self._longest, time.monotonic() - self._last)

    def run(self) -> None:
        """Ask in this thread until `end`."""
        while not self._ending.is_set():
            if self._answers():
                now = time.monotonic()
                self._longest = max(self._longest, now - self._last)
                self._last = now
            self._ending.wait(PROBE_EVERY_SECONDS)

    def end(self) -> None:
        self._ending.set()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PROBE_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/api/v1/health/live")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def watched(port: int) -> Iterator[Liveness]:
    """Watch the service at 127.0.0.1:`port` for the length of the block."""
    liveness = Liveness(port)
    thread = threading.Thread(target=liveness.run, name="liveness", daemon=True)
    thread.start()
    try:
        yield liveness
    finally:
        liveness.end()
        thread.join()
