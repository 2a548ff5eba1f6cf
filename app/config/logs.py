"""Settings of the log files, of how their lines look, of traces, and of a task worker's metrics."""

from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from app.config.source import SettingsGroup


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class LogFormat(StrEnum):
    HUMAN = "human"
    JSON = "json"


class LogSettings(SettingsGroup):
    """What tells an operator what the service does; not the request log in the database."""

    folder: Path | None = Field(None, validation_alias="LOG_DIR")
    """Folder for daily log files; empty: standard error only."""
    level: LogLevel | None = Field(None, validation_alias="LOG_LEVEL")
    """The least severe lines that are written, in either case; empty: DEBUG with APP_DEBUG, else INFO."""
    format: LogFormat | None = Field(None, validation_alias="LOG_FORMAT")
    """human: lines to read; json: an object in each line. Empty: json when ENV=production, else human."""
    traces_endpoint: str | None = Field(None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """Base address of an OpenTelemetry receiver (OTLP over HTTP); empty: no traces."""
    worker_metrics_port: int | None = Field(None, validation_alias="WORKER_METRICS_PORT", ge=1, le=65535)
    """Port at which a process of `python -m app.worker` shows its metrics; empty: none."""

    @field_validator("level", mode="before")
    @classmethod
    def _in_capitals(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("traces_endpoint")
    @classmethod
    def _http_address(cls, value: str | None) -> str | None:
        if value:
            address = urlsplit(value)
            if address.scheme not in {"http", "https"} or not address.hostname:
                # Without the address: it may hold a password.
                raise ValueError("not an address such as http://localhost:4318")
        return value
