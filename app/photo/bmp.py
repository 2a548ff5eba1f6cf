"""BMP: rows are stored as they are, so the header alone says how long the file must be."""

import struct
from dataclasses import dataclass

from app.photo.errors import CorruptPhoto, TooComplex, UnsupportedFormat

_CORE_HEADER_BYTES = 12
_UNCOMPRESSED, _RLE8, _RLE4, _BITFIELDS = 0, 1, 2, 3
_DEPTHS = {
    _UNCOMPRESSED: frozenset({1, 4, 8, 16, 24, 32}),
    _RLE8: frozenset({8}),
    _RLE4: frozenset({4}),
    _BITFIELDS: frozenset({16, 24, 32}),
}

# Pillow undoes run lengths in Python: 0.4 s at the limits.
MAX_RLE_PIXELS = 4_000_000
MAX_RLE_BYTES = 500_000


@dataclass(frozen=True, slots=True)
class BmpHeader:
    """Size in pixels."""

    width: int
    height: int


def read_header(data: bytes) -> BmpHeader:
    """Read the header of a BMP and check the length of the file against it.

    Raises:
        CorruptPhoto, TooComplex, UnsupportedFormat
    """
    if len(data) < 26:
        raise CorruptPhoto
    pixels_at, header_bytes = struct.unpack_from("<LL", data, 10)
    if header_bytes == _CORE_HEADER_BYTES:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
        compression = _UNCOMPRESSED
    elif len(data) >= 14 + header_bytes:
        width, height, _, depth, compression = struct.unpack_from("<llHHL", data, 18)
    else:
        raise CorruptPhoto
    height = abs(height)  # negative: the rows are stored from the top
    if width <= 0 or height == 0 or pixels_at < 14 + header_bytes or pixels_at > len(data):
        raise CorruptPhoto
    if depth not in _DEPTHS.get(compression, ()):
        raise UnsupportedFormat("This kind of BMP is not accepted. Save it as an ordinary JPEG.")
    if compression in {_RLE4, _RLE8}:
        if width * height > MAX_RLE_PIXELS or len(data) > MAX_RLE_BYTES:
            raise TooComplex
    elif pixels_at + (width * depth + 31) // 32 * 4 * height > len(data):
        raise CorruptPhoto
    return BmpHeader(width, height)
