"""Multipart uploads, parsed as they arrive: counted and hashed on the way, kept in memory only, never on disk.

Starlette's own parser spools large parts to temporary files, which a photo must not touch.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from app.api.dependencies import client_address
from app.errors import (
    ImageTooLarge,
    InvalidRequest,
    MissingImage,
    PayloadTooLarge,
    RequestTimeout,
    ServerBusy,
    TooManyImages,
)
from app.runtime.client_key import client_key
from app.runtime.memory_budget import MIN_RESERVED_BYTES, Lease, MemoryBudget, MemoryTimeoutError
from app.server.limits import STOOD_STILL_SECONDS
from app.services.photos import UploadedPhoto

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGE_FIELD = "image"
FIELD_MAX_BYTES = 1024
# Boundaries, part headers and small fields.
OVERHEAD_MAX_BYTES = 64 * 1024
# Fields beside the images; each part costs parsing time, however small it is.
MAX_OTHER_PARTS = 20
ADMISSION_TIMEOUT_SECONDS = 30.0
# From here on, keeping a piece of the body as it came is cheaper than copying it together with others.
SMALL_PIECE_BYTES = 4096
# As app/server/limits.py has it for all bodies, with a pace; a bare uvicorn does not know of that.
SILENCE_SECONDS = 15.0
# One photo on a very slow line.
IMAGE_TIMEOUT_SECONDS = 120.0
# A form of many: what it holds of the memory for uploads, others wait for.
BODY_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class FormField:
    """A text field of the form."""

    name: str
    value: str


# A photo that is too large is handed on as its error, so that the other photos of the form still count.
Part = FormField | UploadedPhoto | ImageTooLarge


@asynccontextmanager
async def admitted(request: Request, memory: MemoryBudget) -> AsyncIterator[Lease]:
    """Hold what this upload takes of the memory, as its bytes arrive; until there is so much, they stay on the wire.

    Raises:
        ServerBusy: the memory did not become free in time, here or in the block.
    """
    address = None if request.client is None else client_address(request.client.host)
    try:
        with memory.lease(client_key(address)) as lease:
            await lease.grow(MIN_RESERVED_BYTES, timeout_seconds=ADMISSION_TIMEOUT_SECONDS)
            yield lease
    except MemoryTimeoutError:
        raise ServerBusy(retry_after_seconds=ADMISSION_TIMEOUT_SECONDS) from None


async def read_parts(
    request: Request,
    memory: Lease,
    *,
    max_images: int,
    max_image_bytes: int,
    image_field: str = IMAGE_FIELD,
) -> AsyncIterator[Part]:
    """Yield the parts of a multipart/form-data request as soon as each is complete; those of `image_field` are images.

    Raises:
        MissingImage: the body is not multipart/form-data.
        InvalidRequest: the body is malformed, ends early, or has too many other parts.
        RequestTimeout: it stops arriving, or takes too long in all.
        TooManyImages: more than `max_images` image parts.
        PayloadTooLarge: the body as a whole is larger than that many images can be.
        MemoryTimeoutError: the memory for it did not become free in time.
    """
    content_type, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if content_type != b"multipart/form-data" or not boundary:
        raise missing_image(image_field)
    max_bytes = max_images * max_image_bytes + OVERHEAD_MAX_BYTES
    pace = _Pace(min(IMAGE_TIMEOUT_SECONDS * max_images, BODY_TIMEOUT_SECONDS))
    images = 0
    # What is held and not used yet.
    reserve = MIN_RESERVED_BYTES
    try:
        collector = _PartCollector(
            boundary, max_image_bytes, image_field=image_field, max_parts=max_images + MAX_OTHER_PARTS
        )
        async for chunk in _chunks(request, pace):
            if len(chunk) > reserve:
                await memory.grow(len(chunk) - reserve, timeout_seconds=ADMISSION_TIMEOUT_SECONDS)
                reserve = len(chunk)
            kept_before = collector.kept_bytes
            collector.feed(chunk)
            reserve -= collector.kept_bytes - kept_before
            if reserve > MIN_RESERVED_BYTES:
                memory.shrink(reserve - MIN_RESERVED_BYTES)
                reserve = MIN_RESERVED_BYTES
            while collector.finished:
                part = collector.finished.popleft()
                images += not isinstance(part, FormField)
                if images > max_images:
                    raise too_many_images(max_images, image_field)
                yield part
            if pace.received_bytes > max_bytes:
                raise PayloadTooLarge
    except FormParserError as error:
        raise InvalidRequest("The multipart body is malformed.") from error
    except TimeoutError:
        raise RequestTimeout from None
    if not collector.complete:
        raise InvalidRequest("The multipart body ends before its closing boundary.")


class _Pace:
    """How long the next piece of a body may take; what we do meanwhile is not the client's time."""

    def __init__(self, max_seconds: float) -> None:
        self.received_bytes = 0
        self._ends = time.monotonic() + max_seconds

    def patience_seconds(self) -> float:
        """Return after how many seconds from now a client that sends nothing is given up."""
        return min(SILENCE_SECONDS, max(0.0, self._ends - time.monotonic()))

    def forgive(self, seconds: float) -> None:
        """Do not count a time in which we did not read."""
        self._ends += seconds


async def _chunks(request: Request, pace: _Pace) -> AsyncIterator[bytes]:
    """Yield the body as it arrives; raises TimeoutError when it does not."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        timer: asyncio.TimerHandle

        def give_up() -> None:
            nonlocal timer
            late = loop.time() - timer.when()
            if late < STOOD_STILL_SECONDS:
                timeout.reschedule(loop.time())
                return
            # What has arrived meanwhile is still to be read.
            pace.forgive(late)
            timer = loop.call_later(STOOD_STILL_SECONDS, give_up)

        pieces = aiter(request.stream())
        while True:
            timer = loop.call_later(pace.patience_seconds(), give_up)
            try:
                piece = await anext(pieces, None)
            finally:
                # What is done with a piece takes its own time.
                timer.cancel()
            if piece is None:
                return
            pace.received_bytes += len(piece)
            handed_over = time.monotonic()
            yield piece
            pace.forgive(time.monotonic() - handed_over)


class _PartCollector:
    """Turns the parser's callbacks into finished parts."""

    def __init__(self, boundary: bytes, max_image_bytes: int, *, image_field: str, max_parts: int) -> None:
        self.finished: deque[Part] = deque()
        self.complete = False
        self.kept_bytes = 0
        """Of what was fed, what is in memory as a photo or was handed on as one."""
        self._max_image_bytes = max_image_bytes
        self._image_field = image_field
        self._parts_left = max_parts
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._filename = ""
        # Pieces of the body, which are put together once, at the end.
        self._data: list[memoryview | bytearray] = []
        self._size = 0
        self._hash = hashlib.sha256()
        self._too_large = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._end_body,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body; raises FormParserError."""
        if chunk:
            self._parser.write(chunk)

    def _begin(self) -> None:
        self._parts_left -= 1
        if self._parts_left < 0:
            raise FormParserError("too many parts")
        self._disposition = b""
        self._name = ""
        self._data = []
        self._size = 0
        self._hash = hashlib.sha256()
        self._too_large = False

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        limit = self._max_image_bytes if self._name == self._image_field else FIELD_MAX_BYTES
        if self._too_large:
            return
        part = memoryview(data)[start:end]
        if self._size + len(part) > limit:
            self._too_large = True
            if self._name == self._image_field:
                self._drop()
                # Told at once, so that the caller of a single photo need not send the rest.
                self.finished.append(image_too_large(limit))
            else:
                self._keep(part[: limit - self._size])
                self._size = limit
            return
        self._keep(part)
        self._size += len(part)
        if self._name == self._image_field:
            self._hash.update(part)

    def _drop(self) -> None:
        self.kept_bytes -= self._size
        self._data = []

    def _keep(self, part: memoryview) -> None:
        self.kept_bytes += len(part)
        if len(part) >= SMALL_PIECE_BYTES:
            self._data.append(part)
            return
        # A piece of its own takes 300 bytes: a client that sends byte by byte would take that much for each.
        tail = self._data[-1] if self._data else None
        if not isinstance(tail, bytearray):
            tail = bytearray()
            self._data.append(tail)
        tail += part

    def _end(self) -> None:
        # A long field is perhaps a photo under another name: what it begins with says that it is not valid here.
        if not (self._too_large and self._name == self._image_field):
            value = b"".join(self._data)
            if self._name == self._image_field:
                self.finished.append(UploadedPhoto(value, self._hash.hexdigest(), self._filename))
            else:
                self.finished.append(FormField(self._name, value.decode("utf-8", "replace")))
                self._drop()
        self._data = []

    def _end_body(self) -> None:
        self.complete = True


def missing_image(field: str) -> MissingImage:
    """The error of a form without a photo, which says where it is looked for."""
    return MissingImage("Send the photo as the multipart/form-data file field '{field}'.", values={"field": field})


def too_many_images(max_images: int, field: str) -> TooManyImages:
    """The error of a form with too many photos, which says how many it may have."""
    if max_images == 1:
        return TooManyImages("At most 1 '{field}' part is accepted in one call.", values={"field": field})
    return TooManyImages(
        "At most {most} '{field}' parts are accepted in one call.", values={"most": max_images, "field": field}
    )


def image_too_large(max_bytes: int) -> ImageTooLarge:
    """The error of a photo over the limit, which says what the limit is."""
    megabytes = max_bytes / (1024 * 1024)
    return ImageTooLarge(
        "The image file is larger than we accept. Compress it: JPEG, 1024 pixels, quality 80."
        " The limit is {megabytes:g} MB.",
        values={"megabytes": megabytes},
        details={"max_bytes": max_bytes},
    )
