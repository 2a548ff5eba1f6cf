"""What can be known of a photo without decoding a pixel, and every refusal that follows from it."""

from app.photo import jpeg, png
from app.photo.errors import CorruptPhoto, TooManyPixels, UnsupportedFormat
from app.photo.formats import PhotoFormat, PhotoInfo, announced_pixels, check_density, sniff
from app.photo.metadata import UPRIGHT, has_other_colours


def inspect_photo(data: bytes, *, allowed: frozenset[PhotoFormat], max_pixels: int) -> PhotoInfo:
    """Return the format of a photo, and what the structure of a JPEG or PNG tells of it.

    Of the other formats the first bytes alone are looked at, for the format and an absurd size. All else is found, and
    refused, by the process that decodes them: asking it for the size first would be a second process for each.

    It takes microseconds for an ordinary photo and some milliseconds for the worst file of 10 MB, so it may run on
    the event loop.

    Args:
        data: the whole file.
        allowed: formats to accept.
        max_pixels: width times height, at most.

    Raises:
        UnsupportedFormat: of any format.
        TooComplex: of any but HEIC and AVIF.
        CorruptPhoto, TooManyPixels: of JPEG and PNG; see `app.photo.errors`.
    """
    photo_format = sniff(data)
    if photo_format is None or photo_format not in allowed:
        accepted = ", ".join(sorted(allowed))
        raise UnsupportedFormat(
            "The bytes are not in one of the accepted image formats: {accepted}.", values={"accepted": accepted}
        )
    if photo_format is PhotoFormat.JPEG:
        jpeg_header = jpeg.read_header(data)
        pixels = _count_pixels(jpeg_header.width, jpeg_header.height, max_pixels)
        jpeg.check_scans(data, jpeg_header)
        check_density(pixels, len(data))
        is_plain = (
            jpeg_header.orientation == UPRIGHT
            and jpeg_header.is_ycbcr_or_grey
            and jpeg_header.has_all_tables
            and not has_other_colours(jpeg_header.profile)
        )
        return PhotoInfo(photo_format, pixels, (jpeg_header.width, jpeg_header.height), is_plain)
    if photo_format is PhotoFormat.PNG:
        png_header = png.read_header(data)
        pixels = _count_pixels(png_header.width, png_header.height, max_pixels)
        png.check_chunks(data, png_header)
        check_density(pixels, len(data))
        return PhotoInfo(photo_format, pixels, (png_header.width, png_header.height))
    announced = announced_pixels(data, photo_format)
    if announced <= max_pixels:
        check_density(announced, len(data))
    return PhotoInfo(photo_format, max_pixels)


def _count_pixels(width: int, height: int, max_pixels: int) -> int:
    if width == 0 or height == 0:
        raise CorruptPhoto
    if width * height > max_pixels:
        raise TooManyPixels
    return width * height
