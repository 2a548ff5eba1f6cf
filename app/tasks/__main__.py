"""`python -m app.tasks`: a process that runs tasks and serves nothing. Start as many as you like; SIGTERM ends them."""

import asyncio
import contextlib
import signal

from loguru import logger

from app.alive import beat
from app.clients.registry import ModelConfigurationError
from app.config import Settings, load_settings
from app.errors import AppError
from app.logs import configure_logging
from app.resources import open_resources
from app.tracing import start_tracing

BEAT_SECONDS = 5.0


async def work(settings: Settings) -> None:
    """Run tasks until SIGTERM or SIGINT; what is not finished a few seconds later is given back to others."""
    finish = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, finish.set)
    async with open_resources(settings, is_worker=True):
        logger.info("task worker: ready")
        while not finish.is_set():
            beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await finish.wait()
        logger.info("task worker: leaving")


def main() -> None:
    """Work with the settings of the environment and `.env`."""
    settings = load_settings()
    configure_logging(settings)
    start_tracing(settings.log.traces_endpoint)
    try:
        asyncio.run(work(settings))
    except (AppError, ModelConfigurationError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
