"""Reads a folder of labelled photos: one folder per category, and optionally `sources.csv` (columns file, source).

Photos of one source look alike, so what is measured across sources says more than what is measured within one.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from app.categories import Category
from app.clients.base import PreparedPhoto
from app.photo import PhotoFormat, inspect_photo, prepare_photo

MAX_EDGE = 1024
MAX_BYTES = 500_000
MAX_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True)
class LabelledPhoto:
    """A photo, what it shows, and where it is from (its own path when that is not known)."""

    path: Path
    category: Category
    source: str


def find_labelled_photos(folder: Path) -> list[LabelledPhoto]:
    """List the photos of `folder`, sorted by path; folders that are not named after a category are passed over.

    Raises:
        ValueError: there are none.
    """
    sources: dict[str, str] = {}
    if (folder / "sources.csv").is_file():
        with (folder / "sources.csv").open(encoding="utf-8", newline="") as file:
            sources = {row["file"]: row["source"] for row in csv.DictReader(file)}
    photos = []
    for category in Category:
        for path in sorted(path for path in (folder / category).glob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            photos.append(LabelledPhoto(path, category, sources.get(name, name)))
    if not photos:
        raise ValueError(f"{folder} has no photos in folders named after the categories")
    return photos


def prepare(photo: LabelledPhoto) -> PreparedPhoto:
    """Prepare a photo as the service does before it asks a model, with its default limits."""
    data = photo.path.read_bytes()
    info = inspect_photo(data, allowed=frozenset(PhotoFormat), max_pixels=MAX_PIXELS)
    return PreparedPhoto(prepare_photo(data, info, max_edge=MAX_EDGE, max_bytes=MAX_BYTES).jpeg)
