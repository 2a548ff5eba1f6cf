"""Measures what tells a screen or a scan from a photo: flat areas, few colours, hard edges, no sensor noise.

The network was trained on photos cut to squares and knows little of this. Each cue is a number of about 0..1.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]

SHORT_EDGE = 256
MIN_EDGE = 16
FLAT_STEP = 2
"""Difference of two neighbouring pixels (0..255) that JPEG leaves in an area of one colour."""
FLAT_RANGE = 6
HARD_STEP = 60

CUES = (
    "flat",
    "most_common_colour",
    "four_most_common_colours",
    "colours",
    "flat_rows",
    "flat_columns",
    "hard_edges",
    "saturation",
    "white",
    "black",
    "flat_top_bar",
    "phone_shape",
    "log_aspect",
    "abs_log_aspect",
    "no_noise",
    "noise",
)


def measure_cues(picture: Image.Image) -> FloatArray:
    """Measure the cues named in `CUES` on an RGB picture of any size; shape (16,)."""
    aspect = picture.height / picture.width
    # One array per channel: numpy is several times faster along rows than along triples.
    channels = np.ascontiguousarray(np.asarray(_reduced(picture)).transpose(2, 0, 1), dtype=np.int16)
    brightness = channels.sum(axis=0, dtype=np.int16) / np.float32(3)
    across = np.abs(np.diff(channels, axis=2)).max(axis=0)
    down = np.abs(np.diff(channels, axis=1)).max(axis=0)
    common = _colour_shares(channels)
    status_bar = channels[:, : max(2, int(0.035 * channels.shape[1]))].reshape(3, -1)
    no_noise, noise = _noise(picture)
    return np.array(
        [
            ((across[:-1] <= FLAT_STEP) & (down[:, :-1] <= FLAT_STEP)).mean(),
            common[0],
            common[:4].sum(),
            min((common > 0.0005).sum() / 300, 1),
            (np.ptp(brightness, axis=1) <= FLAT_RANGE).mean(),
            (np.ptp(brightness, axis=0) <= FLAT_RANGE).mean(),
            (across > HARD_STEP).mean(),
            (channels.max(axis=0) - channels.min(axis=0)).mean() / 255,
            (brightness > 235).mean(),
            (brightness < 20).mean(),
            (np.abs(status_bar - np.median(status_bar, axis=1, keepdims=True)).max(axis=0) <= FLAT_RANGE).mean(),
            1.6 <= aspect <= 2.4,
            np.log(aspect),
            abs(np.log(aspect)),
            no_noise,
            noise,
        ],
        dtype=np.float32,
    )


def _reduced(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    factor = min(1.0, SHORT_EDGE / min(width, height))
    size = (max(MIN_EDGE, round(width * factor)), max(MIN_EDGE, round(height * factor)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)


def _colour_shares(channels: NDArray[np.int16]) -> NDArray[np.float64]:
    """Share of the picture that each of 4096 colours takes (4 bits per channel), largest first."""
    red, green, blue = channels >> 4
    codes = (red << 8) | (green << 4) | blue
    counts = np.bincount(codes.ravel(), minlength=4096)
    shares: NDArray[np.float64] = np.sort(counts)[::-1] / codes.size
    return shares


def _noise(picture: Image.Image) -> tuple[float, float]:
    """Laplacian of the picture's middle, unscaled: the share that is zero, and the lower quartile over 16."""
    left, top = max(0, (picture.width - SHORT_EDGE) // 2), max(0, (picture.height - SHORT_EDGE) // 2)
    middle = picture.crop((left, top, min(left + SHORT_EDGE, picture.width), min(top + SHORT_EDGE, picture.height)))
    if min(middle.size) < 3:
        return 1.0, 0.0
    grey = np.asarray(middle.convert("L"), dtype=np.float32)
    laplacian = np.abs(4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:])
    return float((laplacian <= 1).mean()), min(float(np.percentile(laplacian, 25)) / 16, 1.0)
