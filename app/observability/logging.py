"""Logging: loguru for everything, the libraries' own loggers included; each line carries the request id.

Lines are for people or, with LOG_FORMAT=json, one JSON object each. Local variables never appear in tracebacks: they
hold photos and keys.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from app.config.logs import LogFormat, LogLevel
from app.config.settings import Environment, Settings

if TYPE_CHECKING:
    from loguru import Record

# Marks what a log file has to say of itself.
_NOT_IN_FILES = "not_in_files"
LINE_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS!UTC}Z {level:<7} {extra[request_id]} {name} {message}"


class _ToLoguru(logging.Handler):
    """Hands records of the standard library's logging to loguru, under the names of their loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        _hide_query(record)
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the text does not fit its arguments; who logs must not fail of it
            self.handleError(record)
            return
        named = logger.patch(lambda line: line.update({"name": record.name}))
        named.opt(exception=record.exc_info).log(level, "{}", message)


def _hide_query(record: logging.LogRecord) -> None:
    """Cut off the query where uvicorn names a WebSocket's path: a token may be in it."""
    if isinstance(record.args, tuple) and "WebSocket %s" in str(record.msg):
        record.args = tuple(each.partition("?")[0] if isinstance(each, str) else each for each in record.args)


class _DailyFile:
    """Appends lines to a file named after the UTC day; several processes may write to the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines_missing = 0
        folder.mkdir(parents=True, exist_ok=True)
        # A folder in which nothing can be written is told at the start.
        self._open().close()

    def write(self, line: str) -> None:
        # Told once, elsewhere: loguru would tell of each line at length, just when a disk is full.
        elsewhere = logger.bind(**{_NOT_IN_FILES: True})
        try:
            # One write in append mode: lines of several processes do not mix, and a new day needs no rotation.
            with self._open() as file:
                file.write(line.encode("utf-8", "replace"))
        except OSError as error:
            if not self._lines_missing:
                elsewhere.error("the log file in {} cannot be written: {}", self._folder, error.strerror)
            self._lines_missing += line.count("\n")
            return
        if self._lines_missing:
            missing, self._lines_missing = self._lines_missing, 0
            elsewhere.warning("the log file in {} is written again; {} lines are missing in it", self._folder, missing)

    def _open(self) -> FileIO:
        path = self._folder / f"image-classifier-{datetime.now(UTC):%Y-%m-%d}.log"
        return path.open("ab", buffering=0)


def _belongs_into_files(record: "Record") -> bool:
    return _NOT_IN_FILES not in record["extra"]


def log_format(settings: Settings) -> LogFormat:
    """How lines look: as LOG_FORMAT says, else JSON in production and for people elsewhere."""
    if settings.log.format is not None:
        return settings.log.format
    return LogFormat.JSON if settings.environment is Environment.PRODUCTION else LogFormat.HUMAN


def log_level(settings: Settings) -> LogLevel:
    """The least severe lines that are written: as LOG_LEVEL says, else DEBUG with APP_DEBUG, else INFO."""
    return settings.log.level or (LogLevel.DEBUG if settings.debug else LogLevel.INFO)


def configure_logging(settings: Settings) -> None:
    """Send all logs to standard error, and to daily files when LOG_DIR is set.

    Raises:
        SystemExit: LOG_DIR cannot be used.
    """
    line: Any = _json_line if log_format(settings) is LogFormat.JSON else LINE_FORMAT
    options: dict[str, Any] = {
        "level": log_level(settings).value,
        "format": line,
        "backtrace": False,
        "diagnose": False,
    }
    logger.remove()
    logger.configure(extra={"request_id": "-"})
    logger.add(sys.stderr, **options)
    if settings.log.folder is not None:
        try:
            file = _DailyFile(settings.log.folder)
        except OSError as error:
            raise SystemExit(f"LOG_DIR cannot be used: {error}") from None
        logger.add(file.write, filter=_belongs_into_files, **options)
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
    # They announce each request and each migration step.
    for name in ("httpx2", "httpcore2", "alembic", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _json_line(record: "Record") -> str:
    """Return loguru's template of a line: the finished JSON, with its braces doubled."""
    fields = {
        "time": f"{record['time'].astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{record['time'].microsecond // 1000:03d}Z",
        "level": record["level"].name,
        "request_id": record["extra"]["request_id"],
        "name": record["name"],
        "message": record["message"],
    }
    if (failure := record["exception"]) is not None:
        fields["exception"] = "".join(traceback.format_exception(failure.type, failure.value, failure.traceback))
    record["extra"]["line"] = json.dumps(fields, ensure_ascii=False)
    return "{extra[line]}\n"
