"""PNG: the file is read chunk by chunk (W3C PNG, third edition, section 5) and only what draws the picture is kept."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from app.photo.errors import CorruptPhoto, TooComplex
from app.photo.metadata import PROFILE_MAX_BYTES, UPRIGHT, read_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BIT_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})

# Encoders write IDAT chunks of 8 KB or more: 1250 in a file of 10 MB.
MAX_CHUNKS = 5_000
# Undoing the Paeth filter over rows without pattern is the dearest: 7 to 10 ns for each byte. With what follows, the
# worst at the limit are 1.2 s (grey and alpha) and 300 MB (a single row). It is 30 megapixels of RGB with 8 bits, 22 of
# RGBA; without it, 50 megapixels of RGBA with 16 bits took 2.9 s.
MAX_RAW_BYTES = 90_000_000
# Deflate cannot do better (https://zlib.net/zlib_tech.html), so a header that promises more than that lies.
_MAX_DEFLATE_RATIO = 1032


@dataclass(frozen=True, slots=True)
class PngHeader:
    """Sizes in pixels; `raw_bytes` is the size of the decompressed rows."""

    width: int
    height: int
    raw_bytes: int


def read_header(data: bytes) -> PngHeader:
    """Read the IHDR chunk. Raises CorruptPhoto when it holds what the standard forbids."""
    if len(data) < 33 or data[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise CorruptPhoto
    width, height, depth, colour, compression, filters, interlace = struct.unpack_from(">LLBBBBB", data, 16)
    valid_colour = colour in _CHANNELS and depth in _BIT_DEPTHS[colour]
    if not valid_colour or compression != 0 or filters != 0 or interlace > 1:
        raise CorruptPhoto
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        raise CorruptPhoto
    row_bytes = (width * depth * _CHANNELS[colour] + 7) // 8 + 1
    return PngHeader(width, height, raw_bytes=row_bytes * height)


def check_chunks(data: bytes, header: PngHeader) -> None:
    """Refuse a PNG that is cut off, or whose pixels are too many bytes or more than its data can hold.

    Raises:
        CorruptPhoto, TooComplex
    """
    if header.raw_bytes > MAX_RAW_BYTES:
        raise TooComplex
    compressed = sum(end - body for kind, body, end in _chunks(data) if kind == b"IDAT")
    if header.raw_bytes > compressed * _MAX_DEFLATE_RATIO:
        raise CorruptPhoto


def clean(data: bytes) -> tuple[bytes, int, bytes]:
    """Return the PNG with nothing but its picture, the EXIF orientation (1 to 8), and the colour profile or nothing.

    Text, further frames and bytes after the end are dropped unread; checksums of the rest are checked.

    Raises:
        CorruptPhoto, TooComplex
    """
    orientation, profile = UPRIGHT, b""
    parts = [SIGNATURE]
    for kind, body, end in _chunks(data):
        if kind == b"eXIf":
            orientation = read_orientation(data[body:end])
        elif kind == b"iCCP":
            profile = _unpacked_profile(data[body:end])
        elif kind in _KEPT:
            if zlib.crc32(data[body - 4 : end]) != int.from_bytes(data[end : end + 4]):
                raise CorruptPhoto
            parts.append(data[body - 8 : end + 4])
        elif not kind[0] & 0x20:
            # An upper-case first letter says that the picture cannot be drawn without this chunk.
            raise CorruptPhoto
    return b"".join(parts), orientation, profile


def _unpacked_profile(chunk: bytes) -> bytes:
    """Return the profile of an iCCP chunk: a name, a zero, the method, and what it has compressed."""
    _, _, packed = chunk.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], PROFILE_MAX_BYTES + 1)
    except zlib.error:
        return b""


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the content of each chunk, IEND included."""
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        body = at + 8
        end = body + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            raise CorruptPhoto
        kind = data[at + 4 : body]
        yield kind, body, end
        if kind == b"IEND":
            return
        at = end + 4
    raise TooComplex
