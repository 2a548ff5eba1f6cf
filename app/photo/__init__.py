"""Photos as bytes, in and out: what a file is, whether we take it, and the small clean JPEG that a model is shown.

Nothing here knows the rest of the service. Every input is hostile: whatever it does, it ends as a `PhotoError`,
before it has cost 2 s of CPU or 500 MB of memory.
"""

from app.photo.decoding import PreparedJpeg
from app.photo.errors import CorruptPhoto, NotInTime, PhotoError, TooComplex, TooManyPixels, UnsupportedFormat
from app.photo.formats import PhotoFormat, PhotoInfo
from app.photo.inspection import inspect_photo
from app.photo.perceptual_hash import perceptual_hash
from app.photo.preparation import is_ready, prepare_photo

__all__ = [
    "CorruptPhoto",
    "NotInTime",
    "PhotoError",
    "PhotoFormat",
    "PhotoInfo",
    "PreparedJpeg",
    "TooComplex",
    "TooManyPixels",
    "UnsupportedFormat",
    "inspect_photo",
    "is_ready",
    "perceptual_hash",
    "prepare_photo",
]
