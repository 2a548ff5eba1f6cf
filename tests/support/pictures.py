"""Pictures with something to see in them, which are told apart by their perceptual hashes."""

import random
from io import BytesIO

from PIL import Image


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Soft patches of colour, others for each `seed`."""
    colours = random.Random(seed).randbytes(3 * 9 * 9)
    return Image.frombytes("RGB", (9, 9), colours).resize(size, Image.Resampling.BICUBIC)


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    """Save a picture as a phone would."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
