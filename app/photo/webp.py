"""WebP: the RIFF chunks are walked (RFC 9649); the first frame alone goes on, on its canvas, without metadata."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from app.photo.errors import CorruptPhoto, TooComplex
from app.photo.exif import UPRIGHT, read_orientation

_ANIMATION, _ALPHA = 0x02, 0x10
_VP8_START_CODE = b"\x9d\x01\x2a"
_VP8L_SIGNATURE = 0x2F

# The decoder holds two canvases and hands out a third, of which Pillow makes its own: 16 bytes a pixel, or 404 MB and
# 0.7 s at the limit.
MAX_PIXELS = 24_000_000
# Animations of a minute have some thousand frames.
MAX_CHUNKS = 5_000


@dataclass(frozen=True, slots=True)
class WebpHeader:
    """Canvas size in pixels."""

    width: int
    height: int


def read_header(data: bytes) -> WebpHeader:
    """Read the size of a WebP. Raises CorruptPhoto when there is none."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise CorruptPhoto
    if kind == b"VP8X":
        return WebpHeader(1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"))
    if kind == b"VP8L" and body[0] == _VP8L_SIGNATURE:
        bits = int.from_bytes(body[1:5], "little")
        return WebpHeader(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and body[3:6] == _VP8_START_CODE:
        width, height = struct.unpack_from("<HH", body, 6)
        if width & 0x3FFF and height & 0x3FFF:
            return WebpHeader(width & 0x3FFF, height & 0x3FFF)
    raise CorruptPhoto


def check_chunks(data: bytes, header: WebpHeader) -> None:
    """Refuse a WebP that is cut off or whose canvas is too large to decode.

    Raises:
        CorruptPhoto, TooComplex
    """
    if header.width * header.height > MAX_PIXELS:
        raise TooComplex
    if all(kind not in {b"VP8 ", b"VP8L", b"ANMF"} for kind, _, _ in _chunks(data)):
        raise CorruptPhoto


def clean(data: bytes) -> tuple[bytes, int]:
    """Return a WebP of the first frame only, without metadata, and the EXIF orientation (1 to 8).

    Raises:
        CorruptPhoto, TooComplex
    """
    orientation = UPRIGHT
    canvas: bytes | None = None
    picture: list[bytes] = []
    # ANIM, then the first ANMF; or ALPH (if any), then the pixels.
    wanted = frozenset({b"ALPH", b"VP8 ", b"VP8L"})
    for kind, body, end in _chunks(data):
        content = data[body:end]
        if kind == b"VP8X" and len(content) >= 10 and canvas is None:
            canvas = bytes([content[0] & (_ANIMATION | _ALPHA), 0, 0, 0]) + content[4:10]
            if content[0] & _ANIMATION:
                wanted = frozenset({b"ANIM", b"ANMF"})
        elif kind == b"EXIF":
            orientation = read_orientation(content)
        elif kind in wanted:
            picture.append(_chunk(kind, content))
            wanted = wanted - {kind}
    chunks = ([_chunk(b"VP8X", canvas)] if canvas is not None else []) + picture
    riff = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<L", len(riff)) + riff, orientation


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<L", len(content)) + content + b"\0" * (len(content) & 1)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the content of each chunk within the RIFF container."""
    riff_end = 8 + int.from_bytes(data[4:8], "little")
    if riff_end > len(data):
        raise CorruptPhoto
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > riff_end:
            return
        body = at + 8
        end = body + int.from_bytes(data[at + 4 : body], "little")
        if end > riff_end:
            raise CorruptPhoto
        yield data[at:body][:4], body, end
        at = end + (end - body & 1)
    raise TooComplex
