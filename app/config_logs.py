"""Settings of the log files and of how their lines look."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from app.config_source import SettingsGroup


class LogFormat(StrEnum):
    HUMAN = "human"
    JSON = "json"


class LogSettings(SettingsGroup):
    """The lines that tell what the service does; not the request log in the database."""

    folder: Path | None = Field(None, validation_alias="LOG_DIR")
    """Folder for daily log files; empty: standard error only."""
    format: LogFormat | None = Field(None, validation_alias="LOG_FORMAT")
    """human: lines to read; json: an object in each line. Empty: json when ENV=production, else human."""
