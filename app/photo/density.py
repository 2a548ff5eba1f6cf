"""A file of a few bytes does not become a picture of many megapixels: decoding costs by the pixel, sending by the byte.

What a byte can stand for differs: of a single colour, a JPEG has up to 170 pixels in each, a GIF 1200, and a lossless
WebP is 38 bytes whatever its size. So what phones make passes, whatever it shows, and what is larger has to have a byte
for each thousand pixels beyond. A BMP has no need of it: its bytes are its pixels, unless they are run lengths, which
have a limit of their own.
"""

import struct

from app.photo.errors import TooComplex
from app.photo.formats import PhotoFormat

# The usual photo of a phone, and more than any screen has.
FREE_PIXELS = 12_500_000
MAX_PIXELS_PER_BYTE = 1000
_WEBP_MASK = 0x3FFF


def check_density(pixels: int, size_bytes: int) -> None:
    """Refuse a picture of so many pixels in a file of so few bytes; raises TooComplex."""
    if pixels > FREE_PIXELS + MAX_PIXELS_PER_BYTE * size_bytes:
        raise TooComplex


def announced_pixels(data: bytes, photo_format: PhotoFormat) -> int:
    """Return what the header of a WebP or GIF announces; 0 where it is not that simple to tell."""
    try:
        match photo_format:
            case PhotoFormat.GIF:
                width, height = struct.unpack_from("<HH", data, 6)
            case PhotoFormat.WEBP:
                width, height = _webp_size(data)
            case _:
                return 0
    except struct.error:
        return 0
    return int(width * height)


def _webp_size(data: bytes) -> tuple[int, int]:
    """The size of the canvas: https://developers.google.com/speed/webp/docs/riff_container, and RFC 6386, 9.1."""
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<L", data, 21)
        return (bits & _WEBP_MASK) + 1, (bits >> 14 & _WEBP_MASK) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & _WEBP_MASK, height & _WEBP_MASK
