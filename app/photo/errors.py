"""Why a photo is refused: each class is one reason, each message a sentence for the client that sent the photo.

PhotoError
├── UnsupportedFormat   not one of the accepted formats, or a variant of one that no camera makes
├── CorruptPhoto        damaged, cut off, or not what its header says
├── TooManyPixels       larger than the configured number of pixels
├── TooComplex          decoding would take too much CPU, or 500 MB of memory, or it is too many pixels for its bytes
└── NotInTime           the machine was too busy to decode it; it may be a good photo
"""

from collections.abc import Mapping
from typing import ClassVar


class PhotoError(Exception):
    """Base of all refusals; `message` replaces the class's own sentence and never quotes the file's content.

    `message` names each of the `values` in braces, so that it can be said in another language.
    """

    message: ClassVar[str] = "The file is not a photo we can read."

    def __init__(self, message: str | None = None, *, values: Mapping[str, object] | None = None) -> None:
        self.template = message or self.message
        self.values = values or {}
        super().__init__(self.template.format(**self.values))


class UnsupportedFormat(PhotoError):
    message = "The bytes are not in one of the accepted image formats."


class CorruptPhoto(PhotoError):
    message = "The image is damaged or cut off."


class TooManyPixels(PhotoError):
    message = "The image has more pixels than we accept. Scale it down; 1024 pixels on the long edge are enough."


class TooComplex(PhotoError):
    message = "Decoding this image would cost too much. Save it again as an ordinary JPEG."


class NotInTime(PhotoError):
    message = "The service is too busy to decode the image. Try again shortly."
