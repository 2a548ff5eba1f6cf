"""Logging: loguru for everything, the libraries' own loggers included; each line carries the request id.

Local variables never appear in tracebacks: they hold photos and keys.
"""

import asyncio
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from app.config import Settings

LINE_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS!UTC}Z {level:<7} {extra[request_id]} {name} {message}"

ACCESS_LOG_PAUSE_SECONDS = 0.1


class _ToLoguru(logging.Handler):
    """Hands records of the standard library's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        _hide_query(record)
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.opt(exception=record.exc_info).log(level, "{}: {}", record.name, record.getMessage())


def _hide_query(record: logging.LogRecord) -> None:
    """Cut off the query where uvicorn names a WebSocket's path: a token may be in it."""
    if isinstance(record.args, tuple) and "WebSocket %s" in str(record.msg):
        record.args = tuple(each.partition("?")[0] if isinstance(each, str) else each for each in record.args)


class _DailyFile:
    """Appends lines to a file named after the UTC day; several processes may write to the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, line: str) -> None:
        # One write in append mode: lines of several processes do not mix, and a new day needs no rotation.
        path = self._folder / f"image-classifier-{datetime.now(UTC):%Y-%m-%d}.log"
        with path.open("ab", buffering=0) as file:
            file.write(line.encode("utf-8", "replace"))


class AccessLog:
    """Writes a line per request, many of them at a time: each by itself would cost as much as a cached answer.

    A line holds its own time, and is written at the latest `ACCESS_LOG_PAUSE_SECONDS` after it.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._second = 0
        self._second_text = ""

    def write(self, request_id: str, message: str) -> None:
        """Note a line; `message` holds no line end."""
        if not self._lines:
            asyncio.get_running_loop().call_later(ACCESS_LOG_PAUSE_SECONDS, self.flush)
        moment = time.time()
        second = int(moment)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second))
        milliseconds = int((moment - second) * 1000)
        self._lines.append(f"{self._second_text}.{milliseconds:03d}Z INFO    {request_id} access {message}\n")

    def flush(self) -> None:
        """Write what is noted; for the end of the service."""
        lines, self._lines = self._lines, []
        if lines:
            # Already in LINE_FORMAT.
            logger.opt(raw=True).info("".join(lines))


def configure_logging(settings: Settings) -> None:
    """Send all logs to standard error, and to daily files when LOG_DIR is set."""
    level = "DEBUG" if settings.debug else "INFO"
    logger.remove()
    logger.configure(extra={"request_id": "-"})
    logger.add(sys.stderr, level=level, format=LINE_FORMAT, backtrace=False, diagnose=False)
    if settings.log_dir is not None:
        daily = _DailyFile(settings.log_dir)
        logger.add(daily.write, level=level, format=LINE_FORMAT, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.INFO, force=True)
    for name in ("uvicorn", "uvicorn.error", "gunicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # With DEBUG, it would write each WebSocket's headers and messages, tokens included.
    server = logging.getLogger("uvicorn.error")
    server.setLevel(max(server.level, logging.INFO))
    # The middleware writes one line per request, without the query.
    access = logging.getLogger("uvicorn.access")
    access.handlers = []
    access.propagate = False
    # They announce each request, each migration step and each task.
    for name in ("httpx2", "httpcore2", "alembic", "PIL", "taskiq"):
        logging.getLogger(name).setLevel(logging.WARNING)
