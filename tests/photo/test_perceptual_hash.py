"""The perceptual hash is what docs/api.md says, and stays what it is when a picture is compressed."""

import io
import random
from collections.abc import Callable

import pytest
from PIL import Image, ImageEnhance

from app.photo.perceptual_hash import hash_of, perceptual_hash
from tests.support.pictures import jpeg, scene
from tests.support.vectors import VECTORS, Pixel, drawn

CHANCE = random.Random(15)


@pytest.mark.parametrize(("width", "height", "pixel", "expected"), VECTORS)
def test_vectors(width: int, height: int, pixel: Pixel, expected: str | None) -> None:
    value = hash_of(drawn(width, height, pixel))
    assert (None if value is None else f"{value:016x}") == expected


def far(one: int | None, other: int | None) -> int:
    assert one is not None
    assert other is not None
    return (one ^ other).bit_count()


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda picture: picture.resize((200, 150), Image.Resampling.LANCZOS),
    "larger": lambda picture: picture.resize((640, 480)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_that_leave_the_picture_what_it_is(change: str) -> None:
    for seed in range(5):
        picture = scene(seed)
        assert far(hash_of(picture), perceptual_hash(jpeg(CHANGES[change](picture), quality=60))) <= 8


def test_other_pictures_are_far() -> None:
    values = [hash_of(scene(seed)) for seed in range(30)]
    assert min(far(one, other) for n, one in enumerate(values) for other in values[:n]) > 12


@pytest.mark.parametrize("size", [(31, 200), (200, 31), (32, 257), (2000, 100)])
def test_small_and_narrow_pictures_have_none(size: tuple[int, int]) -> None:
    assert hash_of(scene(1, size)) is None


def test_a_picture_nearly_of_one_colour_has_none() -> None:
    noise = Image.frombytes("L", (320, 240), bytes(CHANCE.choices(range(250, 256), k=320 * 240)))
    assert hash_of(noise) is None


def test_damaged_pictures_have_none() -> None:
    whole = jpeg(scene(1))
    for data in (b"", b"\xff\xd8\xff", whole[:200], whole[: len(whole) // 2], CHANCE.randbytes(2000)):
        assert perceptual_hash(data) is None
    png = io.BytesIO()
    scene(1).save(png, "PNG")
    assert perceptual_hash(png.getvalue()) is None
