"""Finds faces with CenterFace and turns them into a few numbers: how many, how large, how alike in size.

A face is a row (left, top, right, bottom, score); the edges are fractions of the picture, so its size does not matter.
CenterFace (https://arxiv.org/abs/1911.03599) answers on a grid of a quarter of its input's size: a heat map of face
centres, the logarithm of the box's height and width in grid cells, and the centre's offset within its cell.
"""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]

LONG_EDGE = 640
"""Pixels of the long edge that the detector sees; smaller loses the faces of a group photo."""
MAX_PIXELS = 640 * 480
"""Width x height that it sees at most: what it needs of time and memory grows with them."""
GLANCE_PIXELS = 90_000
"""Size of the picture (width x height) in which it looks first whether there may be a face: a quarter of the time."""
GLANCE_THRESHOLD = 0.2
"""Up to this score of the glance it looks no closer: three of five photos, in one of 200 of which it would have found a
face."""
GRID = 4
MULTIPLE = 32
"""The network halves its input five times, so both edges are multiples of 32."""
SCORE_THRESHOLD = 0.5
OVERLAP_THRESHOLD = 0.3
MAX_CANDIDATES = 500
"""Overlapping boxes looked at, best first; bounds the work that a picture made for the purpose can cause."""
MAX_LOG_EXTENT = float(np.log(LONG_EDGE / GRID))

FACE_FEATURES = (
    "count",
    "count_of_similar_size",
    "largest",
    "second",
    "second_to_largest",
    "none",
    "one",
    "two_or_more",
    "four_or_more",
    "tallest",
    "off_centre",
)


def find_faces(session: onnxruntime.InferenceSession, picture: Image.Image) -> FloatArray:
    """Find the faces of an RGB picture.

    Returns:
        One row (left, top, right, bottom, score) per face, best first; shape (n, 5), edges in 0..1.
    """
    glance, _, _ = _detect(session, picture, GLANCE_PIXELS)
    if glance.max() <= GLANCE_THRESHOLD:
        return np.zeros((0, 5), dtype=np.float32)
    return suppress_overlaps(decode_faces(*_detect(session, picture, MAX_PIXELS)))


def _detect(
    session: onnxruntime.InferenceSession, picture: Image.Image, pixels_at_most: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Run the detector on the picture, resized to so many pixels, about, and at most 640 of them long."""
    factor = min((pixels_at_most / (picture.width * picture.height)) ** 0.5, LONG_EDGE / max(picture.size))
    width, height = (max(MULTIPLE, round(edge * factor / MULTIPLE) * MULTIPLE) for edge in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
    outputs: Any = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})
    heat_map, extents, offsets = (output[0] for output in outputs[:3])
    return heat_map[0], extents, offsets


def decode_faces(heat_map: FloatArray, extents: FloatArray, offsets: FloatArray) -> FloatArray:
    """Turn the detector's answer into boxes.

    Args:
        heat_map: score of a face's centre in each cell, shape (rows, columns).
        extents: logarithm of the height and the width in cells, shape (2, rows, columns).
        offsets: where in its cell the centre lies, vertically and horizontally, shape (2, rows, columns).

    Returns:
        Boxes above the score threshold, best first, at most `MAX_CANDIDATES`; shape (n, 5) as described above.
    """
    rows, columns = heat_map.shape
    cells = np.flatnonzero(heat_map > SCORE_THRESHOLD)
    scores = heat_map.ravel()[cells]
    best = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    cells, scores = cells[best], scores[best]
    y, x = np.divmod(cells, columns)
    height, width = np.exp(np.minimum(extents.reshape(2, -1)[:, cells], MAX_LOG_EXTENT))
    offset_y, offset_x = offsets.reshape(2, -1)[:, cells]
    centre_y, centre_x = y + offset_y + 0.5, x + offset_x + 0.5
    edges = (
        (centre_x - width / 2) / columns,
        (centre_y - height / 2) / rows,
        (centre_x + width / 2) / columns,
        (centre_y + height / 2) / rows,
    )
    return np.stack([*(np.clip(edge, 0, 1) for edge in edges), scores], axis=1).astype(np.float32)


def suppress_overlaps(boxes: FloatArray) -> FloatArray:
    """Greedy non-maximum suppression: drop each box that overlaps a better one by over 30 % (intersection / union).

    Args:
        boxes: shape (n, 5), best first.
    """
    kept = []
    while len(boxes):
        best, rest = boxes[0], boxes[1:]
        kept.append(best)
        shared_width = np.minimum(best[2], rest[:, 2]) - np.maximum(best[0], rest[:, 0])
        shared_height = np.minimum(best[3], rest[:, 3]) - np.maximum(best[1], rest[:, 1])
        shared = np.maximum(shared_width, 0) * np.maximum(shared_height, 0)
        union = _areas(boxes[:1]) + _areas(rest) - shared
        boxes = rest[shared <= OVERLAP_THRESHOLD * union]
    return np.array(kept, dtype=np.float32).reshape(-1, 5)


def face_features(faces: FloatArray) -> FloatArray:
    """Describe faces by the numbers named in `FACE_FEATURES`, each about 0..1."""
    areas = np.sort(_areas(faces))[::-1]
    count = len(areas)
    largest = float(areas[0]) if count else 0.0
    second = float(areas[1]) if count > 1 else 0.0
    # Passers-by in the background do not make a group: a face counts when it is not much smaller than the largest.
    similar = int((areas >= max(0.0008, 0.2 * largest)).sum())
    off_centre = 0.0
    if count:
        main = faces[int(np.argmax(_areas(faces)))]
        off_centre = abs(float(main[0] + main[2]) / 2 - 0.5) * 2
    return np.array(
        [
            min(count, 8) / 8,
            min(similar, 6) / 6,
            largest**0.5,
            second**0.5,
            (second / largest) ** 0.5 if largest else 0.0,
            count == 0,
            similar == 1,
            similar >= 2,
            similar >= 4,
            float((faces[:, 3] - faces[:, 1]).max()) if count else 0.0,
            off_centre,
        ],
        dtype=np.float32,
    )


def _areas(boxes: FloatArray) -> FloatArray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
