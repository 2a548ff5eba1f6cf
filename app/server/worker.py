"""gunicorn's worker: uvicorn on uvloop and httptools, leaving as app/server/draining.py says."""

import asyncio
import signal
import sys
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from app.server.draining import WEBSOCKET_OPTIONS, DrainingProtocol, DrainingServer

# Of gunicorn's graceful_timeout, after which it kills: for what the application does when the connections are done.
CLOSING_SECONDS = 5


class DrainingWorker(UvicornWorker):  # type: ignore[misc]  # it comes without types
    """Serves until gunicorn, or its own number of requests, tells it to leave."""

    CONFIG_KWARGS = {"loop": "uvloop", "http": DrainingProtocol, **WEBSOCKET_OPTIONS}  # noqa: RUF012 - the name is the base class's

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - CLOSING_SECONDS)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = DrainingServer(self.config)

        def leave() -> None:
            server.should_exit = True

        # What gunicorn's master makes of its own SIGINT and SIGQUIT; the base class's handler would end nothing.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, leave)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
