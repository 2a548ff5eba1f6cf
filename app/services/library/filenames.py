"""What an owner calls a picture: kept to be shown again, and never part of a path of ours."""

import unicodedata

from app.photo import PhotoFormat

MAX_LENGTH = 255
# A longer one is hardly an extension.
_EXTENSION_MAX_LENGTH = 16
# Invisible, but they shape letters: emoji of families, Persian words.
_JOINERS = "\u200c\u200d"


def display_name(sent: str, photo_format: PhotoFormat) -> str:
    """Return the client's file name as it may be shown: the last part of a path, in NFC, at most 255 characters.

    Control characters go, and those that turn the direction of writing, which make `gpj.exe` look like `exe.jpg`.
    Where nothing is left, it is `image` with the format's extension.
    """
    name = "".join(character for character in unicodedata.normalize("NFC", sent) if _is_shown(character))
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    if not name.strip("."):
        return f"image.{photo_format.value}"
    if len(name) <= MAX_LENGTH:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension) > _EXTENSION_MAX_LENGTH:
        return name[:MAX_LENGTH]
    return stem[: MAX_LENGTH - len(dot + extension)] + dot + extension


def _is_shown(character: str) -> bool:
    category = unicodedata.category(character)
    # C: control, format, surrogate, private, unassigned. Zl and Zp end lines.
    return character in _JOINERS or not (category[0] == "C" or category in {"Zl", "Zp"})
