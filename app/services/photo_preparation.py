"""From an upload to what a model is shown: inspected first, then made small off the event loop, errors in our words."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from app import metrics, photo
from app.clients.base import PreparedPhoto
from app.config import ImageSettings
from app.services.photo_errors import our_photo_errors

# "About 500 KB", the specification's section 4.5: enough for 1024 pixels, cheap to send.
MODEL_IMAGE_MAX_BYTES = 500_000


class PhotoPreparer:
    """Prepares photos for models; `decoder` is the bounded pool that decodes pixels."""

    def __init__(self, decoder: ThreadPoolExecutor, settings: ImageSettings) -> None:
        self._decoder = decoder
        self._settings = settings
        for each in settings.allowed_formats:
            # As the other counters: there from the start.
            metrics.IMAGES.labels(each.value)

    def inspect(self, data: bytes) -> photo.PhotoInfo:
        """Return what the header says; no pixel is decoded.

        Raises:
            UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex: not a photo that we take.
        """
        with our_photo_errors():
            info = photo.inspect_photo(
                data, allowed=self._settings.allowed_formats, max_pixels=self._settings.max_pixels
            )
        metrics.count(metrics.IMAGES.labels(info.format.value))
        metrics.observe(metrics.IMAGE_BYTES, len(data))
        return info

    async def prepare(self, data: bytes, info: photo.PhotoInfo, *, max_edge: int) -> PreparedPhoto:
        """Return the photo as a model is shown it, at most `max_edge` pixels long; raises as `inspect`."""

        def prepare() -> PreparedPhoto:
            with our_photo_errors():
                jpeg = photo.prepare_photo(data, info, max_edge=max_edge, max_bytes=MODEL_IMAGE_MAX_BYTES)
            return PreparedPhoto(jpeg)

        if photo.is_ready(data, info, max_edge=max_edge, max_bytes=MODEL_IMAGE_MAX_BYTES):
            # A thread would take longer to begin.
            return prepare()
        return await asyncio.get_running_loop().run_in_executor(self._decoder, prepare)
