"""Pixels: one picture is decoded, and leaves as a small, upright, plain JPEG."""

import io
from math import ceil, sqrt
from typing import NamedTuple

from PIL import Image

from app.photo.formats import PhotoFormat
from app.photo.metadata import UPRIGHT, to_srgb
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


# A picture that is longer than this times its width, and has to shrink, would be too narrow to be read: a screenshot of
# a whole page, a panorama. It is cut into strips that lie side by side, with a gap between them.
_LONG = 8
_MAX_STRIPS = 16
_GAP_PIXELS = 8
_WHITE = (255, 255, 255)


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
    profile: bytes = b"",
    max_pixels: int,
    max_edge: int,
    max_bytes: int,
    min_edge: int = 1,
) -> PreparedJpeg:
    """Decode a picture and return it as an RGB JPEG without metadata, upright, transparent parts white.

    Args:
        data: the file.
        photo_format: its format.
        orientation: EXIF value 1 to 8 of a JPEG or PNG, whose metadata is gone; that of the others is read here.
        profile: colour profile of a JPEG or PNG; that of the others is read here.
        max_pixels: no larger picture is decoded, whatever was known of it before.
        max_edge: pixels of the long side at most.
        max_bytes: size of the JPEG, at most.
        min_edge: pixels of the short side, at least; if more than 1, a picture that is too small for it is enlarged,
            and one that is too long to be read is cut into strips.

    Raises:
        PhotoError: as `open_picture`.
        Exception: whatever Pillow raises for a damaged file.
    """
    image, stored_width, stored_height = open_picture(data, photo_format, max_pixels=max_pixels)
    with image:
        if orientation == UPRIGHT:
            orientation = orientation_in(image, photo_format)
        strips = _strips(image.size, max_edge) if min_edge > 1 else 1
        width, height = _fit(image.size, max_edge, strips)
        image.draft(None, (width, height))
        image.load()
        small = _shrink(image, (width, height))
        in_file = image.info.get("icc_profile")
        conversion = to_srgb(profile or (in_file if isinstance(in_file, bytes) else b""))
    if conversion is not None:
        small = small.filter(conversion)
    if orientation in _TRANSPOSITIONS:
        small = small.transpose(_TRANSPOSITIONS[orientation])
    if strips > 1:
        small = _side_by_side(small, strips)
    if min(small.size) < min_edge:
        small = _enlarge(small, min_edge, max_edge)
    return PreparedJpeg(_encode(small, max_bytes, min_edge), stored_width, stored_height)


def _strips(size: tuple[int, int], max_edge: int) -> int:
    """Return into how many strips a picture is cut, to become about as wide as long; 1 for all but long ones."""
    ratio = max(size) / min(size)
    return 1 if ratio <= _LONG or max(size) <= max_edge else min(_MAX_STRIPS, round(sqrt(ratio)))


def _fit(size: tuple[int, int], max_edge: int, strips: int) -> tuple[int, int]:
    """Return the size of the picture, not cut yet, that fits when its strips lie side by side."""
    room = max_edge - (strips - 1) * _GAP_PIXELS
    scale = min(1.0, max_edge * strips / max(size), room / (strips * min(size)))
    # Rounded up, many strips would be too broad together.
    rounded = round if strips == 1 else int
    return max(1, rounded(size[0] * scale)), max(1, rounded(size[1] * scale))


def _side_by_side(image: Image.Image, strips: int) -> Image.Image:
    """Return the picture cut across its long side, the strips beside (or below) each other on white."""
    across, long = sorted(image.size)
    length = ceil(long / strips)
    step = across + _GAP_PIXELS
    is_upright = image.height == long
    breadth = strips * step - _GAP_PIXELS
    sheet = Image.new("RGB", (breadth, length) if is_upright else (length, breadth), _WHITE)
    for number in range(strips):
        start, end = number * length, min(long, (number + 1) * length)
        if is_upright:
            sheet.paste(image.crop((0, start, across, end)), (number * step, 0))
        else:
            sheet.paste(image.crop((start, 0, end, across)), (0, number * step))
    return sheet


def _enlarge(image: Image.Image, min_edge: int, max_edge: int) -> Image.Image:
    """Return the picture enlarged as far as its long side allows, and what is missing still added in white."""
    scale = max(1.0, min(min_edge / min(image.size), max_edge / max(image.size)))
    width, height = (max(1, round(edge * scale)) for edge in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    sheet = Image.new("RGB", (max(width, min_edge), max(height, min_edge)), _WHITE)
    sheet.paste(image, ((sheet.width - width) // 2, (sheet.height - height) // 2))
    return sheet


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
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(image, mask=image.getchannel("A"))
    return white


def _encode(image: Image.Image, max_bytes: int, min_edge: int) -> bytes:
    """Return a JPEG of at most `max_bytes`: lower quality first, then fewer pixels, but no side below `min_edge`."""
    while True:
        width, height = (max(min(min_edge, edge), int(edge * _SHRINK_STEP)) for edge in image.size)
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            # Pillow would copy the comment of a GIF.
            image.save(buffer, "JPEG", quality=quality, comment=b"")
            if buffer.tell() <= max_bytes:
                return buffer.getvalue()
        if (width, height) == image.size:
            return buffer.getvalue()
        image = image.resize((width, height))
