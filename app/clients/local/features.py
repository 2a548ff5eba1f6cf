"""Turns a prepared photo into the numbers that the head judges: four blocks, in the order of `FEATURE_BLOCKS`.

What the network sees is the whole photo squashed to a square: on these categories one squashed look is worth as much
as a cropped one, and nothing at the edges is lost.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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

# ImageNet (ILSVRC 2012) classes that speak for or against a category, by their usual indices.
IMAGENET_GROUPS: dict[str, tuple[int, ...]] = {
    # goldfish, parrots, dogs, house cats, rabbits, hamster, guinea pig
    "pets": (1, *range(87, 91), *range(151, 269), *range(281, 286), *range(330, 334), 338),
    # dishes, fruit and vegetables (hay and cardoon among them are not food), drinks, tableware, where it is sold
    "food": (
        *range(923, 946),
        *range(947, 958),
        *range(959, 970),
        987,
        415,
        441,
        504,
        505,
        509,
        532,
        550,
        659,
        762,
        809,
    ),
    # nature (coral reef to volcano), then buildings and harbours as travellers photograph them
    "scenery": (
        *(970, *range(972, 981), 437, 442, 449, 460, 483, 484, 497, 500, 525, 536, 538, 562, 576, 649, 663, 668, 682),
        *(698, 718, 780, 821, 832, 839, 873, 888, 914, 915),
    ),
    # screens, computers, telephones, web site
    "screen": (409, 487, 508, 527, 530, 590, 592, 605, 620, 662, 664, 681, 761, 782, 851, 916),
    # binder, carton, envelope, packet, wallet, comic, crossword, book jacket, menu
    "printed": (446, 478, 549, 692, 720, 748, 893, 917, 918, 921, 922),
    # clothes, hats, glasses and jewellery: ImageNet has next to no class for people, but many for what they wear
    "worn": (
        *(399, 400, 411, 433, 434, 445, 451, 452, 456, 457, 459, 465, 474, 501, 515, 518, 551, 552, 560, 568, 578, 584),
        *(601, 608, 610, 614, 617, 638, 639, 643, 652, 655, 667, 678, 679, 689, 697, 735, 775, 793, 796, 801, 808, 824),
        *(834, 836, 837, 841, 842, 869, 887, 903, 906, 911, 981, 982, 983),
    ),
    # every other animal
    "wildlife": (
        *(0, *range(2, 87), *range(91, 151), *range(269, 281), *range(286, 330), *range(334, 338), *range(339, 398)),
    ),
}

FEATURE_BLOCKS = (NETWORK_FEATURES, len(IMAGENET_GROUPS), len(FACE_FEATURES), len(CUES))
"""How many numbers each block has: network, logarithms of the groups' probabilities, faces, cues."""


class UnreadablePhoto(ValueError):
    """The bytes are not a JPEG that can be decoded."""


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


def extract_features(networks: Networks, picture: Image.Image) -> FloatArray:
    """Compute the features of an RGB picture of any size; shape (sum of `FEATURE_BLOCKS`,), float32."""
    outputs: Any = networks.image.run(["features", "logits"], {"input": network_input(picture)})
    network, logits = outputs[0][0], outputs[1][0]
    faces = face_features(find_faces(networks.faces, picture))
    return np.concatenate([network, group_log_probabilities(logits), faces, measure_cues(picture)])


def network_input(picture: Image.Image) -> FloatArray:
    """Squash to 260 x 260 and scale to (pixel - 127) / 128, as the network was trained; shape (1, 3, 260, 260)."""
    squashed = picture.resize((NETWORK_EDGE, NETWORK_EDGE), Image.Resampling.BICUBIC)
    pixels = (np.asarray(squashed, dtype=np.float32) - 127) / 128
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def group_log_probabilities(logits: FloatArray) -> FloatArray:
    """Sum the probabilities of each group of classes, and take the logarithm.

    Args:
        logits: the network's answer, shape (1000,).
    """
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    sums = [probabilities[list(classes)].sum() for classes in IMAGENET_GROUPS.values()]
    logarithms: FloatArray = np.log(np.array(sums, dtype=np.float32) + np.float32(PROBABILITY_FLOOR))
    return logarithms
