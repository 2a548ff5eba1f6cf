"""Pixels: one picture is decoded by the one Pillow plugin named for it, and leaves as a small, upright, plain JPEG.

A plugin's class is called directly rather than through `Image.open`: no other plugin then sees hostile bytes, the
JPEG plugin cannot hand over to the one for multi-picture files, and Pillow's global pixel limit plays no part.
"""

import io
from collections.abc import Callable
from math import ceil

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from app.photo.formats import PhotoFormat

# 85 shows no loss to a model; from 30 on, fewer pixels look better than a lower quality.
_QUALITIES = (85, 70, 50, 30)
_SHRINK_STEP = 0.75
# Modes whose values can be averaged as they are.
_REDUCIBLE_MODES = frozenset({"L", "RGB", "CMYK"})
# The others are converted in bands of about this many pixels, so that there is never a second full picture.
_BAND_PIXELS = 2_000_000
# Reducing by whole factors down to twice the final size first, as Pillow's reducing_gap of 2 does: fast, and close to
# what one slow resize would give.
_REDUCING_GAP = 2

# EXIF 2.32, section 4.6.4: what brings each orientation upright.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _open_heic(file: io.BytesIO) -> ImageFile.ImageFile:
    # Imported here because only the process that decodes HEIC should load its native library.
    from pillow_heif import HeifImageFile, options

    options.DECODE_THREADS = 1
    image: ImageFile.ImageFile = HeifImageFile(file)  # type: ignore[no-untyped-call]  # pillow-heif has no types
    return image


_OPENERS: dict[PhotoFormat, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    PhotoFormat.JPEG: JpegImagePlugin.JpegImageFile,
    PhotoFormat.PNG: PngImagePlugin.PngImageFile,
    PhotoFormat.WEBP: WebPImagePlugin.WebPImageFile,
    PhotoFormat.GIF: GifImagePlugin.GifImageFile,
    PhotoFormat.BMP: BmpImagePlugin.BmpImageFile,
    PhotoFormat.HEIC: _open_heic,
    PhotoFormat.AVIF: AvifImagePlugin.AvifImageFile,
}


def decode_to_jpeg(
    data: bytes, photo_format: PhotoFormat, *, orientation: int, max_pixels: int, max_edge: int, max_bytes: int
) -> bytes:
    """Decode a picture and return it as an RGB JPEG without metadata, upright, transparent parts white.

    Args:
        data: the file, cleaned of metadata; hostile all the same.
        orientation: EXIF value 1 to 8, applied here; that of HEIC and AVIF is in the container and applied by itself.
        max_pixels: no larger picture is decoded, whatever the header outside had said.
        max_edge: pixels of the long side at most.
        max_bytes: size of the JPEG, at most.

    Raises:
        Exception: whatever Pillow raises for a damaged file.
    """
    with _OPENERS[photo_format](io.BytesIO(data)) as image:
        if image.width * image.height > max_pixels:
            raise ValueError("the picture is larger than its header said")
        if photo_format is PhotoFormat.AVIF:
            # libavif leaves the rotation of the container to us; Pillow tells it in the words of EXIF.
            orientation = image.getexif().get(0x0112, 1)
        width, height = _fit(image.size, max_edge)
        image.draft(None, (width, height))
        image.load()
        small = _shrink(image, (width, height))
    if orientation in _TRANSPOSITIONS:
        small = small.transpose(_TRANSPOSITIONS[orientation])
    return _encode(small, max_bytes)


def _fit(size: tuple[int, int], max_edge: int) -> tuple[int, int]:
    scale = min(1.0, max_edge / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the picture as RGB in the given size."""
    width, height = image.size
    factor_x = max(1, width // (size[0] * _REDUCING_GAP))
    factor_y = max(1, height // (size[1] * _REDUCING_GAP))
    if image.mode in _REDUCIBLE_MODES and not image.has_transparency_data:
        reduced = image.reduce((factor_x, factor_y)).convert("RGB")
    else:
        reduced = _reduce_in_bands(image, factor_x, factor_y)
    # The last column and row of the reduction may stand for fewer pixels than the others.
    box = (0, 0, width / factor_x, height / factor_y)
    return reduced.resize(size, Image.Resampling.LANCZOS, box=box)


def _reduce_in_bands(image: Image.Image, factor_x: int, factor_y: int) -> Image.Image:
    """Return the picture as RGB, reduced by whole factors, without ever converting all of it at once."""
    width, height = image.size
    reduced = Image.new("RGB", (ceil(width / factor_x), ceil(height / factor_y)))
    band_height = max(1, _BAND_PIXELS // (width * factor_y)) * factor_y
    for top in range(0, height, band_height):
        band = _flatten(image.crop((0, top, width, min(top + band_height, height))))
        reduced.paste(band.reduce((factor_x, factor_y)), (0, top // factor_y))
    return reduced


def _flatten(image: Image.Image) -> Image.Image:
    """Return a picture of any mode as RGB, transparent parts white."""
    if image.mode.startswith("I;16"):
        # Pillow would cut values at 255; the high byte is the picture.
        image = Image.frombytes("L", image.size, image.tobytes()[1::2])
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _encode(image: Image.Image, max_bytes: int) -> bytes:
    """Return a JPEG of at most `max_bytes`: lower quality first, then fewer pixels."""
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= max_bytes or image.size == (1, 1):
                return buffer.getvalue()
        image = image.resize((max(1, int(image.width * _SHRINK_STEP)), max(1, int(image.height * _SHRINK_STEP))))
