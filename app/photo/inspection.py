"""What can be known of a photo without decoding a pixel, and every refusal that follows from it."""

from app.photo import bmp, gif, heif, jpeg, png, webp
from app.photo.errors import CorruptPhoto, TooManyPixels, UnsupportedFormat
from app.photo.exif import UPRIGHT
from app.photo.formats import PhotoFormat, PhotoInfo, sniff


def inspect_photo(data: bytes, *, allowed: frozenset[PhotoFormat], max_pixels: int) -> PhotoInfo:
    """Return format and size of a photo from its first bytes and its structure.

    It takes microseconds for an ordinary photo and some milliseconds for the worst file of 10 MB, so it may run on
    the event loop.

    Args:
        data: the whole file.
        allowed: formats to accept.
        max_pixels: width times height, at most.

    Raises:
        UnsupportedFormat, CorruptPhoto, TooManyPixels, TooComplex: see `app.photo.errors`.
    """
    photo_format = sniff(data)
    if photo_format is None or photo_format not in allowed:
        accepted = ", ".join(sorted(allowed))
        raise UnsupportedFormat(f"The bytes are not in one of the accepted image formats: {accepted}.")
    return _read_info(data, photo_format, max_pixels)


def _read_info(data: bytes, photo_format: PhotoFormat, max_pixels: int) -> PhotoInfo:
    """Read the size, refuse too many pixels, and only then look further into the file."""
    is_plain = False
    match photo_format:
        case PhotoFormat.JPEG:
            jpeg_header = jpeg.read_header(data)
            size = _limited(jpeg_header.width, jpeg_header.height, max_pixels)
            jpeg.check_scans(data, jpeg_header)
            is_plain = jpeg_header.orientation == UPRIGHT and jpeg_header.is_ycbcr_or_grey
        case PhotoFormat.PNG:
            png_header = png.read_header(data)
            size = _limited(png_header.width, png_header.height, max_pixels)
            png.check_chunks(data, png_header)
        case PhotoFormat.WEBP:
            webp_header = webp.read_header(data)
            size = _limited(webp_header.width, webp_header.height, max_pixels)
            webp.check_chunks(data, webp_header)
        case PhotoFormat.GIF:
            gif_header = gif.read_header(data)
            size = _limited(gif_header.width, gif_header.height, max_pixels)
        case PhotoFormat.BMP:
            bmp_header = bmp.read_header(data)
            size = _limited(bmp_header.width, bmp_header.height, max_pixels)
        case PhotoFormat.HEIC | PhotoFormat.AVIF:
            size = _limited(*heif.read_size(data), max_pixels)
    return PhotoInfo(photo_format, *size, is_plain)


def _limited(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    if width == 0 or height == 0:
        raise CorruptPhoto
    if width * height > max_pixels:
        raise TooManyPixels
    return width, height
