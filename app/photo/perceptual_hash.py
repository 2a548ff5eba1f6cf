"""A perceptual hash: 64 bits that a picture keeps when it is compressed, resized or brightened.

It is the "pHash" of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2.1,
with a Lanczos filter and the median of all 64 coefficients. docs/api.md specifies it bit by bit: clients compute it
too, and a change of it makes the stored hashes useless.
"""

import io
from functools import cache
from math import cos, pi
from operator import mul
from typing import cast

from PIL import Image, JpegImagePlugin

EDGE_PIXELS = 32
FREQUENCIES = 8
BITS = FREQUENCIES**2
# A model is shown a smaller picture with a white border, and a longer one cut into strips (app/photo/decoding.py).
MIN_EDGE_PIXELS = 32
MAX_RATIO = 8
# What has no more contrast than this, of 256 levels, has none to tell pictures apart by: its bits are noise.
MIN_CONTRAST = 24


def perceptual_hash(jpeg: bytes) -> int | None:
    """Return the perceptual hash of an upright JPEG, 0 to 2^64 - 1; None where it has none to go by.

    That is a picture that is too small, too narrow, nearly of one colour, or damaged. It takes about 8 ms for a
    megapixel: call it in a thread.
    """
    try:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg)) as image:
            return hash_of(image)
    except Exception:  # noqa: BLE001 - Pillow raises anything on hostile bytes
        return None


def hash_of(image: Image.Image) -> int | None:
    """Return the perceptual hash of a picture that stands upright and is opaque; None as `perceptual_hash`."""
    if min(image.size) < MIN_EDGE_PIXELS or max(image.size) > MAX_RATIO * min(image.size):
        return None
    small = image.convert("RGB").convert("L").resize((EDGE_PIXELS, EDGE_PIXELS), Image.Resampling.LANCZOS)
    lowest, highest = cast("tuple[int, int]", small.getextrema())
    if highest - lowest < MIN_CONTRAST:
        return None
    luma = small.tobytes()
    rows = [luma[start : start + EDGE_PIXELS] for start in range(0, len(luma), EDGE_PIXELS)]
    # Columns: each frequency across, of all rows.
    across = [[sum(map(mul, row, wave)) for row in rows] for wave in _waves()]
    coefficients = [sum(map(mul, column, wave)) for wave in _waves() for column in across]
    ordered = sorted(coefficients)
    median = (ordered[BITS // 2 - 1] + ordered[BITS // 2]) / 2
    value = 0
    for coefficient in coefficients:
        value = value << 1 | (coefficient > median)
    return value


@cache
def _waves() -> tuple[tuple[float, ...], ...]:
    """The first cosines of the discrete cosine transform (DCT-II) of 32 values."""
    return tuple(
        tuple(cos((2 * place + 1) * frequency * pi / (2 * EDGE_PIXELS)) for place in range(EDGE_PIXELS))
        for frequency in range(FREQUENCIES)
    )
