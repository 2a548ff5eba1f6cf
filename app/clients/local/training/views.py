"""What the head is trained on of each photo: the photo as it is sent, and as it might have been sent instead."""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from app.clients.local.features import look_at, open_photo
from app.clients.local.network import Networks
from app.clients.local.training.labelled import LabelledPhoto, prepare


def _as_sent(picture: Image.Image) -> Image.Image:
    return picture


def _sent_small(picture: Image.Image) -> Image.Image:
    """As an app sends it that saves every byte."""
    return _encoded(picture, edge=512, quality=60)


def _bright(picture: Image.Image) -> Image.Image:
    """As a phone that flatters takes it."""
    return _encoded(ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(1.25)).enhance(1.2), 640, 80)


def _nearer(picture: Image.Image) -> Image.Image:
    """As if photographed from nearer, and not quite at the middle."""
    width, height = picture.size
    return picture.crop((int(width * 0.15), int(height * 0.1), int(width * 0.95) + 1, int(height * 0.9) + 1))


# A head is trained on all of these views of a photo, and measured on the first.
VIEWS: tuple[Callable[[Image.Image], Image.Image], ...] = (_as_sent, ImageOps.mirror, _sent_small, _bright, _nearer)


def view_features(photo: LabelledPhoto, networks: Networks) -> NDArray[np.float32]:
    """Compute the features of each view of a photo; shape (views, features).

    Raises:
        OSError: the file cannot be read.
        PhotoError: it is no photo that the service takes.
    """
    picture = open_photo(prepare(photo).jpeg)
    return np.stack([look_at(networks, view(picture)).features for view in VIEWS])


def _encoded(picture: Image.Image, edge: int, quality: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((edge, edge), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return open_photo(buffer.getvalue())
