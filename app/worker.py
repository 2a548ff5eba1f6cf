"""`python -m app.worker`: a process that runs tasks and serves only its metrics. Start as many as you like."""

import asyncio
import contextlib
import signal

from loguru import logger
from prometheus_client import start_http_server

from app.clients.errors import ModelConfigurationError
from app.config.settings import Settings, load_settings
from app.config.unknown import warn_of_unknown_variables
from app.errors import AppError
from app.observability import metrics
from app.observability.logging import configure_logging
from app.observability.tracing import start_tracing
from app.resources import open_resources
from app.runtime.hardening import harden
from app.runtime.healthcheck import beat

BEAT_SECONDS = 5.0


async def work(settings: Settings) -> None:
    """Run tasks until SIGTERM or SIGINT; what is not finished a few seconds later is given back to others."""
    finish = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, finish.set)
    async with open_resources(settings, is_worker=True):
        if settings.log.worker_metrics_port is not None:
            _show_metrics(settings.host, settings.log.worker_metrics_port)
        await asyncio.to_thread(harden)
        logger.info("task worker: ready")
        while not finish.is_set():
            beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await finish.wait()
        logger.info("task worker: shutting down")


def _show_metrics(host: str, port: int) -> None:
    """Serve the figures from a thread that ends with the process and can reach nothing else.

    Raises:
        SystemExit: the port cannot be had.
    """
    try:
        start_http_server(port, addr=host, registry=metrics.REGISTRY)
    except OSError as error:
        raise SystemExit(f"WORKER_METRICS_PORT={port} cannot be opened: {error.strerror}.") from None


def main() -> None:
    """Work with the settings of the environment and `.env`."""
    settings = load_settings()
    configure_logging(settings)
    warn_of_unknown_variables()
    start_tracing(settings.log.traces_endpoint)
    try:
        asyncio.run(work(settings))
    except (AppError, ModelConfigurationError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
