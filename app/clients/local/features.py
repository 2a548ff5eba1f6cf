"""Turns a prepared photo into the numbers that the head judges: five blocks, in the order of `FEATURE_BLOCKS`.

The network sees the photo three times: whole, squashed to a square, and the square at each end of its long edge. What
is lost by squashing a long picture is seen there, and what the ends show says how uniform it is.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.clients.local.classes import IMAGENET_GROUPS
from app.clients.local.cues import CUES, measure_cues
from app.clients.local.faces import FACE_FEATURES, face_features, find_faces
from app.clients.local.network import Networks

FloatArray = NDArray[np.float32]

NETWORK_EDGE = 260
NETWORK_FEATURES = 1280
LARGEST_EDGE = 1024
"""The cues depend on the scale, and the head was trained on photos of at most this size."""
REFUSED_EDGE = 4096
"""No prepared photo is larger (the upper limit of LLM_IMAGE_MAX_EDGE)."""
PROBABILITY_FLOOR = 1e-4

FEATURE_BLOCKS = (NETWORK_FEATURES, len(IMAGENET_GROUPS), len(IMAGENET_GROUPS), len(FACE_FEATURES), len(CUES))
"""How many numbers each block has: network, logarithms of the groups' probabilities in the whole and at the ends,
faces, cues."""


class UnreadablePhoto(ValueError):
    """The bytes are not a JPEG that can be decoded."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the local model sees in a photo.

    `features` has shape (sum of `FEATURE_BLOCKS`,), `classes` is the mean probability of each ImageNet class over the
    three looks, shape (1000,), `faces` their number.
    """

    features: FloatArray
    classes: FloatArray
    faces: int


def open_photo(jpeg: bytes) -> Image.Image:
    """Decode a prepared photo to RGB, at most 1024 pixels long.

    Raises:
        UnreadablePhoto: it is not a JPEG, is damaged, or is larger than any prepared photo.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as file:
            if max(file.size) > REFUSED_EDGE:
                raise UnreadablePhoto("larger than any prepared photo")
            file.thumbnail((LARGEST_EDGE, LARGEST_EDGE), Image.Resampling.BICUBIC)
            return file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadablePhoto("not a JPEG that can be decoded") from error


def look_at(networks: Networks, picture: Image.Image) -> Sight:
    """Look at an RGB picture of any size."""
    # One after the other: three in one run take as long, and 25 MB more.
    looks: list[Any] = [
        networks.image.run(["features", "logits"], {"input": network_input(picture, box)}) for box in looked_at(picture)
    ]
    # Square roots bring the few large ones of these numbers, which are 0 or more, nearer to the others.
    network = np.sqrt(np.maximum([features[0] for features, _ in looks], 0)).mean(axis=0)
    whole, *ends = (class_probabilities(logits[0]) for _, logits in looks)
    at_ends = np.mean(ends, axis=0)
    faces = find_faces(networks.faces, picture)
    features = np.concatenate(
        [
            network,
            group_log_probabilities(whole),
            group_log_probabilities(at_ends),
            face_features(faces),
            measure_cues(picture),
        ],
        dtype=np.float32,
    )
    return Sight(features, (whole + 2 * at_ends) / 3, len(faces))


def looked_at(picture: Image.Image) -> tuple[tuple[int, int, int, int], ...]:
    """Return what the network sees of a picture: the whole, and the squares at both ends (left, top, right, bottom)."""
    width, height = picture.size
    edge = min(width, height)
    return (0, 0, width, height), (0, 0, edge, edge), (width - edge, height - edge, width, height)


def network_input(picture: Image.Image, box: tuple[int, int, int, int]) -> FloatArray:
    """Squash a part to 260 x 260 and scale to (pixel - 127) / 128, as the network was trained; (1, 3, 260, 260)."""
    squashed = picture.resize((NETWORK_EDGE, NETWORK_EDGE), Image.Resampling.BICUBIC, box)
    pixels = (np.asarray(squashed, dtype=np.float32) - 127) / 128
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def class_probabilities(logits: FloatArray) -> FloatArray:
    """Turn the network's answer into probabilities; both of shape (1000,)."""
    exponentials = np.exp(logits - logits.max())
    probabilities: FloatArray = exponentials / exponentials.sum()
    return probabilities


def group_log_probabilities(probabilities: FloatArray) -> FloatArray:
    """Sum the probabilities of each group of classes, and take the logarithm.

    Args:
        probabilities: of the classes, shape (1000,).
    """
    sums = [probabilities[list(classes)].sum() for classes in IMAGENET_GROUPS.values()]
    logarithms: FloatArray = np.log(np.array(sums, dtype=np.float32) + np.float32(PROBABILITY_FLOOR))
    return logarithms
