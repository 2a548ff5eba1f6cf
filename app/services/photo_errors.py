"""What `app.photo` refuses, in the errors of the service."""

from collections.abc import Iterator
from contextlib import contextmanager

from app import photo
from app.errors import CorruptImage, ImageTooComplex, InvalidRequest, TooManyPixels, UnsupportedImageFormat

_PHOTO_ERRORS: dict[type[photo.PhotoError], type[InvalidRequest]] = {
    photo.UnsupportedFormat: UnsupportedImageFormat,
    photo.CorruptPhoto: CorruptImage,
    photo.TooManyPixels: TooManyPixels,
    photo.TooComplex: ImageTooComplex,
}


@contextmanager
def our_photo_errors() -> Iterator[None]:
    """Turn a PhotoError of the block into one of ours.

    Raises:
        UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex: the block raised its PhotoError.
    """
    try:
        yield
    except photo.PhotoError as error:
        raise _PHOTO_ERRORS[type(error)](str(error)) from error
