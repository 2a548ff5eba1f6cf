"""From an upload to what a model is shown: inspected first, then made small off the event loop, errors in our words."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app import photo
from app.clients.base import ModelResult, PreparedPhoto
from app.clients.errors import ModelError
from app.config.settings import ImageSettings
from app.errors import AppError, CorruptImage, ImageTooComplex, ServerBusy, TooManyPixels, UnsupportedImageFormat
from app.language.accept import Language
from app.observability import metrics
from app.runtime.fair_queue import FairQueue, QueueFullError

# "About 500 KB", the specification's section 4.5: enough for 1024 pixels, cheap to send.
MODEL_IMAGE_MAX_BYTES = 500_000
# Vision models refuse pictures whose short side is below one of their tiles: 28 pixels (Qwen-VL,
# https://github.com/vllm-project/vllm/issues/21109) or 32 (https://github.com/ollama/ollama/issues/11297).
MODEL_IMAGE_MIN_EDGE_PIXELS = 32


_PHOTO_ERRORS: dict[type[photo.PhotoError], type[AppError]] = {
    photo.UnsupportedFormat: UnsupportedImageFormat,
    photo.CorruptPhoto: CorruptImage,
    photo.TooManyPixels: TooManyPixels,
    photo.TooComplex: ImageTooComplex,
}
# What has to wait is begun anew by its client; by then the others are done.
BUSY_RETRY_AFTER_SECONDS = 10.0
# It takes 6 ms of CPU (python -m bench.near_duplicates), and saves a model's call of some seconds.
PERCEPTUAL_HASH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Prepaid:
    """What a batch has brought for a photo, and what that has cost; the ledger has it already."""

    outcome: ModelResult | ModelError
    cost_micros: int


@dataclass(frozen=True, slots=True)
class UploadedPhoto:
    """An upload in memory and the SHA-256 (64 lower-case hex digits) that the server computed from its bytes.

    `filename` is what the client calls it, as it was sent: anything may be in it. With `prepaid` no model is asked.
    """

    data: bytes = field(repr=False)
    sha256: str
    filename: str = field(default="", repr=False)
    prepaid: Prepaid | None = None


class PhotoPreparer:
    """Prepares photos for models; `decoder` is the queue of those whose pixels are decoded."""

    def __init__(self, decoder: FairQueue, settings: ImageSettings) -> None:
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

    async def prepare(
        self, data: bytes, info: photo.PhotoInfo, *, max_edge: int, client: str, language: Language
    ) -> PreparedPhoto:
        """Return the photo as a model is shown it, at most `max_edge` pixels long, when it is the turn of `client`.

        It is to be described in `language`.

        Raises:
            ServerBusy: too many photos wait, or the machine is too busy.
            UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex: not a photo that we take.
        """
        sizes = {
            "max_edge": max_edge,
            "max_bytes": MODEL_IMAGE_MAX_BYTES,
            "min_edge": MODEL_IMAGE_MIN_EDGE_PIXELS,
        }

        def prepare(others: int = 0) -> photo.PreparedJpeg:
            return photo.prepare_photo(data, info, **sizes, niceness=others)

        if photo.is_ready(data, info, **sizes):
            with our_photo_errors():
                # A thread would take longer to begin.
                made = prepare()
        else:
            made = await decoded(self._decoder, client, prepare)
        metrics.count(metrics.IMAGES.labels(info.format.value))
        metrics.observe(metrics.IMAGE_BYTES, len(data))
        return PreparedPhoto(made.jpeg, language)

    async def perceptual_hash(self, prepared: PreparedPhoto, *, client: str) -> int | None:
        """Return the perceptual hash of a prepared photo, when it is the turn of `client`.

        None where it has none to go by, and where the machine is too busy: no request waits long for it.
        """
        try:
            async with asyncio.timeout(PERCEPTUAL_HASH_SECONDS):
                return await self._decoder.run(client, lambda _: photo.perceptual_hash(prepared.jpeg))
        except (QueueFullError, TimeoutError):
            return None


async def decoded(decoder: FairQueue, client: str, work: Callable[[int], photo.PreparedJpeg]) -> photo.PreparedJpeg:
    """Return what `work` makes of a photo when it is the turn of `client`; raises as `PhotoPreparer.prepare`."""
    try:
        with our_photo_errors():
            return await decoder.run(client, work)
    except QueueFullError:
        raise ServerBusy(retry_after_seconds=BUSY_RETRY_AFTER_SECONDS) from None


@contextmanager
def our_photo_errors() -> Iterator[None]:
    """Turn a PhotoError of the block into one of ours.

    Raises:
        UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex, ServerBusy: the block raised its
            PhotoError.
    """
    try:
        yield
    except photo.NotInTime:
        raise ServerBusy(retry_after_seconds=BUSY_RETRY_AFTER_SECONDS) from None
    except photo.PhotoError as error:
        raise _PHOTO_ERRORS[type(error)](error.template, values=error.values) from error
