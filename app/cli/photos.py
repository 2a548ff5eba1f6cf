"""What a client does to a photo before it asks: find it, turn it upright, shrink it, encode it, hash it.

The recipe is that of docs/clients/python.py. Any change gives other bytes, so other hashes, and model calls to pay.
"""

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pillow_heif
from PIL import Image, ImageOps

from app.photo.perceptual_hash import perceptual_hash

MAX_EDGE = 1024
QUALITY = 80
# The largest photos of phones, of 200 megapixels, are half as large.
MAX_FILE_BYTES = 200_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".heic", ".heif", ".avif"})


class UnreadablePhoto(Exception):
    """The file is not a picture that can be decoded; the text says why in a few words."""


@dataclass(frozen=True, slots=True)
class CompressedPhoto:
    """The JPEG that is sent, its hashes in lower-case hex, and the size of the file that it was made from, in bytes.

    `perceptual_hash` is None where the picture has none to go by.
    """

    jpeg: bytes
    sha256: str
    original_bytes: int
    perceptual_hash: str | None = None


def find_photos(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files as they are named, and of folders, to any depth, the files with a picture's suffix, sorted.

    Hidden files and folders inside a folder are left out, and links to folders are not followed. A file that is named
    twice is yielded once. A folder that cannot be read is yielded itself, so that it does not go unnoticed.
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

    Transparent parts are white; what they hide is not shown.

    Raises:
        UnreadablePhoto: it cannot be read or decoded.
    """
    pillow_heif.register_heif_opener()
    try:
        original = _read(path)
        with Image.open(io.BytesIO(original)) as image:
            # Whole powers of two are left out while decoding: four times faster for 48 megapixels.
            image.draft("RGB", (2 * MAX_EDGE, 2 * MAX_EDGE))
            photo = _as_rgb(ImageOps.exif_transpose(image))
        photo.thumbnail((MAX_EDGE, MAX_EDGE))
        encoded = io.BytesIO()
        # Pillow would copy the comment, where some cameras and editors note who and where.
        photo.save(encoded, "JPEG", quality=QUALITY, comment=b"")
    except UnreadablePhoto:
        raise
    except Image.DecompressionBombError:
        raise UnreadablePhoto("too many pixels") from None
    except OSError as error:
        raise UnreadablePhoto(error.strerror or "not a picture, or damaged") from None
    except Exception as error:  # noqa: BLE001 - Pillow raises anything on hostile bytes
        raise UnreadablePhoto(f"not a picture, or damaged ({type(error).__name__})") from None
    jpeg = encoded.getvalue()
    bits = perceptual_hash(jpeg)
    perceptual = None if bits is None else f"{bits:016x}"
    return CompressedPhoto(jpeg, hashlib.sha256(jpeg).hexdigest(), len(original), perceptual)


def _read(path: Path) -> bytes:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UnreadablePhoto("the folder cannot be read")
    # Reading a pipe or a device would never end.
    if not stat.S_ISREG(mode):
        raise UnreadablePhoto("not a file")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UnreadablePhoto(f"larger than {MAX_FILE_BYTES // 1_000_000} MB")
    return data


def _as_rgb(photo: Image.Image) -> Image.Image:
    if photo.mode.startswith("I;16"):
        # A scan: Pillow would cut values at 255 and show white; the high byte is the picture.
        photo = photo.point(lambda value: value / 256).convert("L")
    if photo.has_transparency_data:
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
    return photo.convert("RGB")


def _pictures_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    unreadable: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in SUFFIXES and _is_file(path)]
    found += [Path(error.filename) for error in unreadable]
    return sorted(found)


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path's own raises where we may not look
