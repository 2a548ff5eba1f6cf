"""Opens one picture with the one Pillow plugin named for its format, and checks what that plugin leaves unchecked.

A plugin's class is called directly rather than through `Image.open`: no other plugin then sees hostile bytes, and the
JPEG plugin cannot hand over to the one for multi-picture files. No pixel is decoded here.
"""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin

from app.photo.errors import CorruptPhoto, TooComplex, TooManyPixels, UnsupportedFormat
from app.photo.formats import PhotoFormat, check_density
from app.photo.metadata import UPRIGHT, read_orientation

# libwebp holds two canvases and hands out a third, of which Pillow makes its own: 16 bytes a pixel, or 404 MB and
# 0.7 s at the limit.
MAX_WEBP_PIXELS = 24_000_000

# Pillow decodes the run lengths of a BMP in Python, pixel by pixel: 1.3 s at the limit.
MAX_RUN_LENGTH_PIXELS = 24_000_000

# What the decoders say of a variant of the format that they do not know, and of a container without a still picture.
# All else that they say is damage.
_UNKNOWN_VARIANT = {
    PhotoFormat.BMP: re.compile("Unsupported BMP"),
    PhotoFormat.HEIC: re.compile("not identified by this driver|No 'meta' box"),
    PhotoFormat.AVIF: re.compile("Missing or empty image item"),
}
_SIZE_PROPERTY = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)


def open_picture(data: bytes, photo_format: PhotoFormat, *, max_pixels: int) -> tuple[ImageFile.ImageFile, int, int]:
    """Return the picture, not decoded yet, and its width and height in pixels as stored, before orientation.

    Args:
        data: the file.
        photo_format: its format; JPEG and PNG are opened too, but what they cost is not checked here.
        max_pixels: width times height, at most.

    Raises:
        TooManyPixels, TooComplex: larger than `max_pixels`, than what can be decoded of this format, or than its bytes.
        UnsupportedFormat: a variant of the format that the decoder does not know.
        CorruptPhoto: the file is cut off.
        Exception: whatever Pillow raises for a damaged file.
    """
    try:
        image = _open(data, photo_format, max_pixels)
    except Image.DecompressionBombError:
        raise TooManyPixels from None
    except (OSError, RuntimeError, SyntaxError) as error:
        unknown = _UNKNOWN_VARIANT.get(photo_format)
        if unknown is not None and unknown.search(str(error)):
            raise UnsupportedFormat from error
        raise
    width, height = _stored_size(image) if photo_format is PhotoFormat.HEIC else image.size
    if width * height > max_pixels:
        raise TooManyPixels
    if photo_format is not PhotoFormat.BMP:
        check_density(width * height, len(data))
    return image, width, height


def orientation_in(image: ImageFile.ImageFile, photo_format: PhotoFormat) -> int:
    """Return the EXIF orientation (1 to 8) that is left to apply; that of JPEG and PNG is read before they get here."""
    if photo_format is PhotoFormat.WEBP:
        return read_orientation(image.info.get("exif", b""))
    if photo_format is PhotoFormat.AVIF:
        # libavif leaves the rotation of the container to us; Pillow tells it in the words of EXIF. libheif applies it.
        return int(image.getexif().get(0x0112, UPRIGHT))
    return UPRIGHT


def _open(data: bytes, photo_format: PhotoFormat, max_pixels: int) -> ImageFile.ImageFile:
    file = io.BytesIO(data)
    match photo_format:
        case PhotoFormat.JPEG:
            return JpegImagePlugin.JpegImageFile(file)
        case PhotoFormat.PNG:
            return PngImagePlugin.PngImageFile(file)
        case PhotoFormat.BMP:
            return _open_bmp(file)
        case PhotoFormat.GIF:
            return _open_gif(data)
        case PhotoFormat.WEBP:
            return _open_webp(file, max_pixels)
    _check_boxes(data)
    # The decoders go by the main brand alone, and some phones put their own there.
    file = io.BytesIO(data[:8] + (b"heic" if photo_format is PhotoFormat.HEIC else b"avif") + data[12:])
    return _open_heic(file) if photo_format is PhotoFormat.HEIC else _open_avif(file, max_pixels)


def _open_bmp(file: io.BytesIO) -> ImageFile.ImageFile:
    image = BmpImagePlugin.BmpImageFile(file)
    run_lengths = {image.COMPRESSIONS[name] for name in ("RLE8", "RLE4")}
    if image.info["compression"] in run_lengths and image.width * image.height > MAX_RUN_LENGTH_PIXELS:
        raise TooComplex
    return image


class _WholeFile(io.BytesIO):
    """Refuses to be read beyond its end, which Pillow takes for the end of a GIF."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            raise CorruptPhoto
        return data


def _open_gif(data: bytes) -> ImageFile.ImageFile:
    with GifImagePlugin.GifImageFile(_WholeFile(data)) as whole:
        # Counting the frames walks over all of them to the end.
        _ = whole.n_frames
    return GifImagePlugin.GifImageFile(io.BytesIO(data))


def _open_webp(file: io.BytesIO, max_pixels: int) -> ImageFile.ImageFile:
    """Pillow compares the size in the header with twice its own limit before libwebp allocates the canvas."""
    # Here, as those for AVIF and HEIC, so that only the process that decodes them loads their native libraries.
    from PIL import WebPImagePlugin

    try:
        with _limited_to(min(max_pixels, MAX_WEBP_PIXELS)):
            return WebPImagePlugin.WebPImageFile(file)
    except Image.DecompressionBombError:
        file.seek(0)
        with _limited_to(max_pixels), suppress(OSError):
            WebPImagePlugin.WebPImageFile(file)
        raise TooComplex from None


@contextmanager
def _limited_to(pixels: int) -> Iterator[None]:
    """Set Pillow's limit for the length of the block. It is the process's, for whatever else is opened there."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = (pixels + 1) // 2
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _open_heic(file: io.BytesIO) -> ImageFile.ImageFile:
    from pillow_heif import HeifImageFile, options

    options.DECODE_THREADS = 1
    # With thumbnails, one of them might be decoded instead of the picture.
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    image: ImageFile.ImageFile = HeifImageFile(file)  # type: ignore[no-untyped-call]  # pillow-heif has no types
    return image


def _open_avif(file: io.BytesIO, max_pixels: int) -> ImageFile.ImageFile:
    from PIL import AvifImagePlugin

    try:
        return AvifImagePlugin.AvifImageFile(file)
    except SyntaxError:
        # Of over 268 million pixels libavif says only that it cannot parse the file.
        sizes = (struct.unpack(">LL", size) for size in _SIZE_PROPERTY.findall(file.getvalue()))
        if any(width * height > max_pixels for width, height in sizes):
            raise TooManyPixels from None
        raise


def _check_boxes(data: bytes) -> None:
    """Refuse a HEIC or AVIF that is cut off; the decoders do not mind as long as the picture itself is there.

    The boxes of the picture (ISO/IEC 14496-12, section 4.2) may be followed by other bytes, which some phones append.
    """
    at, seen = 0, set[bytes]()
    while at < len(data) and not {b"meta", b"mdat"} <= seen:
        size, kind = struct.unpack_from(">L4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        at = at + max(size, 8) if size else len(data)
        seen.add(kind)
    if at > len(data):
        raise CorruptPhoto


def _stored_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return the size of a HEIC before libheif crops and turns it."""
    width, height = image.size
    transformations = image._heif_file[image.tell()]._c_image.transformations  # type: ignore[attr-defined]  # noqa: SLF001
    for kind, *values in reversed(transformations):
        if kind == "clap":
            width, height = values[-2:]
        elif kind == "irot" and values[0] % 180:
            width, height = height, width
    return width, height
