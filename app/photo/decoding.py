"""Pixels: one picture is decoded, and leaves as a small, upright, plain JPEG."""

import io
from math import ceil
from typing import NamedTuple

from PIL import Image

from app.photo.exif import UPRIGHT
from app.photo.formats import PhotoFormat
from app.photo.plugins import open_picture, orientation_in

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


class PreparedJpeg(NamedTuple):
    """What a model is shown of a photo, and the photo's own width and height in pixels as stored."""

    jpeg: bytes
    width: int
    height: int


def decode_to_jpeg(
    data: bytes,
    photo_format: PhotoFormat,
    *,
    orientation: int = UPRIGHT,
    max_pixels: int,
    max_edge: int,
    max_bytes: int,
) -> PreparedJpeg:
    """Decode a picture and return it as an RGB JPEG without metadata, upright, transparent parts white.

    Args:
        data: the file.
        photo_format: its format.
        orientation: EXIF value 1 to 8 of a JPEG or PNG, whose metadata is gone; that of the others is read here.
        max_pixels: no larger picture is decoded, whatever was known of it before.
        max_edge: pixels of the long side at most.
        max_bytes: size of the JPEG, at most.

    Raises:
        PhotoError: as `open_picture`.
        Exception: whatever Pillow raises for a damaged file.
    """
    image, stored_width, stored_height = open_picture(data, photo_format, max_pixels=max_pixels)
    with image:
        if orientation == UPRIGHT:
            orientation = orientation_in(image, photo_format)
        width, height = _fit(image.size, max_edge)
        image.draft(None, (width, height))
        image.load()
        small = _shrink(image, (width, height))
    if orientation in _TRANSPOSITIONS:
        small = small.transpose(_TRANSPOSITIONS[orientation])
    return PreparedJpeg(_encode(small, max_bytes), stored_width, stored_height)


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
            # Pillow would copy the comment of a GIF.
            image.save(buffer, "JPEG", quality=quality, comment=b"")
            if buffer.tell() <= max_bytes or image.size == (1, 1):
                return buffer.getvalue()
        image = image.resize((max(1, int(image.width * _SHRINK_STEP)), max(1, int(image.height * _SHRINK_STEP))))
