"""Spools, as processes have them."""

import tempfile
from pathlib import Path

from app.services.spool.service import Spool

ROOM_BYTES = 1024 * 1024


def no_spool() -> Spool:
    """A spool that takes nothing, and makes no folder."""
    return Spool(Path(tempfile.gettempdir()) / "no-spool", 0)


def spool_in(folder: Path, *, max_bytes: int = ROOM_BYTES) -> Spool:
    """The spool of one more process of an instance."""
    return Spool(folder / "spool", max_bytes)


def spool_files(folder: Path) -> list[Path]:
    """What is in the spool of an instance."""
    return sorted((folder / "spool").glob("*")) if (folder / "spool").exists() else []
