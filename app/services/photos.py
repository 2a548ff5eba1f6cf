"""From an upload to what a model is shown: inspected first, then made small off the event loop, errors in our words."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from app import photo
from app.clients.base import PreparedPhoto
from app.config.settings import ImageSettings
from app.errors import CorruptImage, ImageTooComplex, InvalidRequest, TooManyPixels, UnsupportedImageFormat
from app.observability import metrics

# "About 500 KB", the specification's section 4.5: enough for 1024 pixels, cheap to send.
MODEL_IMAGE_MAX_BYTES = 500_000


_PHOTO_ERRORS: dict[type[photo.PhotoError], type[InvalidRequest]] = {
    photo.UnsupportedFormat: UnsupportedImageFormat,
    photo.CorruptPhoto: CorruptImage,
    photo.TooManyPixels: TooManyPixels,
    photo.TooComplex: ImageTooComplex,
}


@dataclass(frozen=True, slots=True)
class UploadedPhoto:
    """An upload in memory and the SHA-256 (64 lower-case hex digits) that the server computed from its bytes.

    `filename` is what the client calls it, as it was sent: anything may be in it.
    """

    data: bytes = field(repr=False)
    sha256: str
    filename: str = field(default="", repr=False)


class PhotoPreparer:
    """Prepares photos for models; `decoder` is the bounded pool that decodes pixels."""

    def __init__(self, decoder: ThreadPoolExecutor, settings: ImageSettings) -> None:
        self._decoder = decoder
        self._settings = settings
        for each in settings.allowed_formats:
            # As the other counters: there from the start.
            metrics.IMAGES.labels(each.value)

    def inspect(self, data: bytes) -> photo.PhotoInfo:
        """Return what can be told without decoding; of other formats than JPEG and PNG that is the format alone.

        Raises:
            UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex: not a photo that we take.
        """
        with our_photo_errors():
            return photo.inspect_photo(
                data, allowed=self._settings.allowed_formats, max_pixels=self._settings.max_pixels
            )

    async def prepare(self, data: bytes, info: photo.PhotoInfo, *, max_edge: int) -> PreparedPhoto:
        """Return the photo as a model is shown it, at most `max_edge` pixels long; raises as `inspect`."""

        def prepare() -> PreparedPhoto:
            with our_photo_errors():
                made = photo.prepare_photo(data, info, max_edge=max_edge, max_bytes=MODEL_IMAGE_MAX_BYTES)
            return PreparedPhoto(made.jpeg)

        if photo.is_ready(data, info, max_edge=max_edge, max_bytes=MODEL_IMAGE_MAX_BYTES):
            # A thread would take longer to begin.
            prepared = prepare()
        else:
            prepared = await asyncio.get_running_loop().run_in_executor(self._decoder, prepare)
        metrics.count(metrics.IMAGES.labels(info.format.value))
        metrics.observe(metrics.IMAGE_BYTES, len(data))
        return prepared


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
