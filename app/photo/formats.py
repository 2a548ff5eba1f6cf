"""The format of a photo is what its first bytes say, never its name or what the sender claims."""

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from app.photo.errors import TooComplex


class PhotoFormat(StrEnum):
    """A format we can read; the value is the usual file extension."""

    JPEG = "jpg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"
    BMP = "bmp"
    HEIC = "heic"
    AVIF = "avif"

    @classmethod
    def from_name(cls, name: str) -> Self:
        """Return the format with this extension in either case, with or without a dot; `jpeg` and `heif` count too.

        Raises:
            ValueError: there is no such format.
        """
        name = name.strip().lower().removeprefix(".")
        return cls(_OTHER_NAMES.get(name, name))


_OTHER_NAMES = {"jpeg": "jpg", "heif": "heic"}

_SIGNATURES = {
    b"\xff\xd8\xff": PhotoFormat.JPEG,
    b"\x89PNG\r\n\x1a\n": PhotoFormat.PNG,
    b"GIF87a": PhotoFormat.GIF,
    b"GIF89a": PhotoFormat.GIF,
}

# ISO/IEC 23008-12 (HEIF), annex B, and the AV1 image file format, section 8.
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
# OS/2 1 and 2, Windows 3 with its two undocumented extensions, 4 and 5.
_BMP_HEADER_BYTES = frozenset({12, 64, 40, 52, 56, 108, 124})
# A list of compatible brands has about six entries; a longer one is not read to its end.
_MAX_BRANDS = 32

# A file of a few bytes does not become a picture of many megapixels: decoding costs by the pixel, sending by the byte.
# What a byte can stand for differs: of a single colour, a JPEG has up to 170 pixels in each, a GIF 1200, and a lossless
# WebP is 38 bytes whatever its size. So what phones make passes, whatever it shows, and what is larger has to have a
# byte for each thousand pixels beyond. A BMP has no need of it: its bytes are its pixels, unless they are run lengths,
# which have a limit of their own.
# FREE_PIXELS is the usual photo of a phone, and more than any screen has.
FREE_PIXELS = 12_500_000
MAX_PIXELS_PER_BYTE = 1000
_WEBP_MASK = 0x3FFF


@dataclass(frozen=True, slots=True)
class PhotoInfo:
    """What is known of a photo before it is decoded.

    `max_pixels`: no larger picture is decoded. `size`: width and height in pixels as stored, before orientation is
    applied; None where only the decoder can tell. `is_plain`: a JPEG that stands upright, is coded as every decoder
    expects and has the colours of sRGB, so its pixels can stay as they are.
    """

    format: PhotoFormat
    max_pixels: int
    size: tuple[int, int] | None = None
    is_plain: bool = False


def sniff(data: bytes) -> PhotoFormat | None:
    """Return the format that the first bytes of `data` announce, None when it is none of ours."""
    for signature, photo_format in _SIGNATURES.items():
        if data.startswith(signature):
            return photo_format
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return PhotoFormat.WEBP
    if data[4:8] == b"ftyp":
        return _sniff_brands(data)
    # Two letters are a weak signature, so the size of the second header must be one that exists.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return PhotoFormat.BMP
    return None


def _sniff_brands(data: bytes) -> PhotoFormat | None:
    end = min(int.from_bytes(data[:4]), len(data), 16 + 4 * _MAX_BRANDS)
    for brand in [data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))]:
        if brand in _AVIF_BRANDS:
            return PhotoFormat.AVIF
        if brand in _HEIC_BRANDS:
            return PhotoFormat.HEIC
    return None


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
