"""What a client does to a photo before it asks: find it, turn it upright, shrink it, encode it, hash it.

The recipe is the one of the README's examples. Whoever changes it gets other bytes, so other hashes, and pays again.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pillow_heif
from PIL import Image, ImageOps

MAX_EDGE = 1024
QUALITY = 80
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".heic", ".heif", ".avif"})


class UnreadablePhoto(Exception):
    """The file is not a picture that can be decoded; the text says why in a few words."""


@dataclass(frozen=True, slots=True)
class CompressedPhoto:
    """The JPEG that is sent, its hash in lower-case hex, and the size of the file that it was made from, in bytes."""

    jpeg: bytes
    sha256: str
    original_bytes: int


def find_photos(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files as they are named, and of folders, to any depth, the files with a picture's suffix, sorted.

    Hidden files and folders inside a folder are left out. A file that is named twice is yielded once.
    """
    seen: set[Path] = set()
    for path in paths:
        for found in _pictures_below(path) if path.is_dir() else [path]:
            resolved = found.resolve()
            if resolved not in seen:
                seen.add(resolved)
                yield found


def compress(path: Path) -> CompressedPhoto:
    """Return the photo as the service wants it: upright JPEG without metadata, long edge at most MAX_EDGE pixels.

    Raises:
        UnreadablePhoto: it cannot be read or decoded.
    """
    pillow_heif.register_heif_opener()
    try:
        original = path.read_bytes()
        with Image.open(io.BytesIO(original)) as image:
            # Whole powers of two are left out while decoding: four times faster for a camera's photo.
            image.draft("RGB", (2 * MAX_EDGE, 2 * MAX_EDGE))
            photo = ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise UnreadablePhoto(error.strerror or "not a picture, or damaged") from None
    except Exception as error:  # noqa: BLE001 - Pillow raises anything on hostile bytes
        raise UnreadablePhoto(f"not a picture, or damaged ({type(error).__name__})") from None
    photo.thumbnail((MAX_EDGE, MAX_EDGE))
    encoded = io.BytesIO()
    photo.save(encoded, "JPEG", quality=QUALITY)
    jpeg = encoded.getvalue()
    return CompressedPhoto(jpeg, hashlib.sha256(jpeg).hexdigest(), len(original))


def _pictures_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
