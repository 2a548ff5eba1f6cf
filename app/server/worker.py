"""gunicorn's worker: uvicorn on uvloop and httptools, which shuts down as app/server/draining.py says."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn import Config
from uvicorn_worker import UvicornWorker

from app.server.arbiter import REPLACED, SERVES, WORN_OUT, is_said, say
from app.server.draining import WEBSOCKET_OPTIONS, DrainingProtocol, DrainingServer

# Of gunicorn's graceful_timeout, after which it kills: for what the application does when the connections are done.
CLOSING_SECONDS = 5


class _Server(DrainingServer):
    """A server that tells when it accepts connections."""

    def __init__(self, config: Config, on_serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_serving = on_serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_serving()


class DrainingWorker(UvicornWorker):  # type: ignore[misc]  # it comes without types
    """Serves until gunicorn tells it to shut down.

    After its own number of requests it says so, and shuts down when another worker serves in its place
    (app/server/arbiter.py).
    """

    CONFIG_KWARGS = {"loop": "uvloop", "http": DrainingProtocol, **WEBSOCKET_OPTIONS}  # noqa: RUF012 - the name is the base class's

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_told_to_leave = False
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - CLOSING_SECONDS)

    def init_signals(self) -> None:
        """Note a signal that comes before the server listens to signals itself.

        To die of it would reset the connections that the kernel has accepted for us, if all workers are starting.
        """
        super().init_signals()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._note_signal)

    def _is_replaced(self) -> bool:
        say(self, WORN_OUT)
        return is_said(self, REPLACED)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_told_to_leave = True

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = _Server(self.config, lambda: say(self, SERVES))
        server.should_exit = self._is_told_to_leave
        server.may_leave = self._is_replaced

        def shut_down() -> None:
            server.should_exit = True

        # What gunicorn's master makes of its own SIGINT and SIGQUIT; the base class's handler would end nothing.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, shut_down)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
