"""Log files in LOG_DIR: a folder that cannot be used stops the start, and a full disk costs lines, not requests."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from loguru import logger

from app.config.logs import LogFormat, LogSettings
from app.config.settings import Settings
from app.observability.access_log import AccessLog
from app.observability.logging import configure_logging


@pytest.fixture
def restored() -> Iterator[None]:
    """The log as the other tests have it, at the end."""
    yield
    configure_logging(Settings())


def logging_to(folder: Path) -> Settings:
    return Settings(log=LogSettings(folder=folder, format=LogFormat.JSON))


def days_files(folder: Path) -> list[Path]:
    """Today's file, and tomorrow's, since midnight may pass."""
    today = datetime.now(UTC)
    return [folder / f"image-classifier-{today + timedelta(days=days):%Y-%m-%d}.log" for days in (0, 1)]


@pytest.mark.usefixtures("restored")
def test_a_folder_in_which_no_file_can_be_written_stops_the_start(tmp_path: Path) -> None:
    for file in days_files(tmp_path):
        file.mkdir()
    with pytest.raises(SystemExit, match=r"LOG_DIR cannot be used: .*image-classifier-"):
        configure_logging(logging_to(tmp_path))


@pytest.mark.usefixtures("restored")
def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="LOG_DIR cannot be used: "):
        configure_logging(logging_to(tmp_path / "file" / "logs"))


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's disk without room")
@pytest.mark.usefixtures("restored")
async def test_a_full_disk_is_told_once_on_standard_error_and_so_is_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = days_files(tmp_path)
    for file in files:
        file.symlink_to("/dev/full")
    configure_logging(logging_to(tmp_path))
    logger.info("one")
    access = AccessLog(LogFormat.JSON)
    access.write("req_1", method="GET", path="/", status=200, outcome="ok", seconds=0.1, client=None, user=None)
    access.flush()
    for file in files:
        file.unlink()
    logger.info("two")
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["message"]) for line in written] == [
        ("INFO", "one"),
        ("ERROR", f"the log file in {tmp_path} cannot be written: {os.strerror(errno.ENOSPC)}"),
        ("INFO", "GET / 200"),
        ("INFO", "two"),
        ("WARNING", f"the log file in {tmp_path} is written again; 2 lines are missing in it"),
    ]
    in_file = [json.loads(line)["message"] for file in files if file.exists() for line in file.read_text().splitlines()]
    assert in_file == ["two"]
