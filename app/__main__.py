"""`python -m app`: serve on one process for a first try, and say where to look."""

import asyncio
import contextlib
import errno
import os
import socket
import sys
from pathlib import Path

import uvicorn

from app.config.settings import Settings, load_settings
from app.runtime.hardening import harden
from app.server.draining import WEBSOCKET_OPTIONS, DrainingProtocol, DrainingServer

SAMPLE_PHOTO = Path("docs/samples/coffee.jpg")


class _Server(DrainingServer):
    """A server that tells a newcomer what to do next once it really serves."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(_welcome(self._settings), flush=True)  # noqa: T201 - meant for the person at the terminal
            await asyncio.to_thread(harden)


def _welcome(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - compared, not bound
    url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    address = settings.database_url
    is_file = address.get_backend_name() == "sqlite"
    data = Path(address.database or "").resolve() if is_file else address.render_as_string(hide_password=True)
    return (
        f"\n  Image Classifier  {url}"
        f"\n  try a photo       {url}/demo"
        f"\n  dashboard         {url}/dashboard"
        f"\n  API               {url}/docs"
        f"\n  model             {settings.model.provider}"
        f"\n  data              {data}"
        f"\n\n  Try it:\n    curl -F image=@{SAMPLE_PHOTO} {url}/api/v1/classify\n"
    )


def _check_address(host: str, port: int) -> None:
    """End with one line where the address cannot be listened on, before the database is opened for nothing."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            sys.exit(f"port {port} of {host} is in use by another program; set APP_PORT to a free one")
        sys.exit(f"cannot listen on APP_HOST {host}, APP_PORT {port}: {error.strerror}")


def main() -> None:
    """Serve with the settings of the environment and `.env`."""
    settings = load_settings()
    if "host" not in settings.model_fields_set:
        # Without a setting, only this machine may reach it.
        settings = settings.model_copy(update={"host": "127.0.0.1"})
    _check_address(settings.host, settings.port)
    # We are one process, whatever gunicorn is told (app/runtime/capacity.py).
    os.environ["WEB_CONCURRENCY"] = "1"
    config = uvicorn.Config(
        "app.main:app",
        host=settings.host,
        port=settings.port,
        http=DrainingProtocol,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        access_log=False,
        timeout_graceful_shutdown=int(settings.model.total_timeout_seconds) + 10,
        log_config=None,
        **WEBSOCKET_OPTIONS,
    )
    # Ctrl-C has ended the server in good order by the time it arrives here.
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, settings).run()


if __name__ == "__main__":
    main()
