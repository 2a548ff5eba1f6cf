"""The test vectors of docs/api.md: pictures by formula, and their perceptual hashes."""

from collections.abc import Callable

from PIL import Image

Pixel = Callable[[int, int], tuple[int, int, int]]


def _curves(x: int, y: int) -> tuple[int, int, int]:
    return x * x // 40, y * y // 20, x * y // 30


def _grey(x: int, y: int) -> tuple[int, int, int]:
    value = 7 * x + 3 * y * y
    return value, value, value


def _chequered(x: int, y: int) -> tuple[int, int, int]:
    return 255 if (x // 50 + y // 37) % 2 else 20, x * y // 700, x + 2 * y


def _plain(x: int, y: int) -> tuple[int, int, int]:
    return 100, 100, 100


VECTORS: list[tuple[int, int, Pixel, str | None]] = [
    (96, 64, _curves, "aa779175e361825a"),
    (32, 32, _grey, "970b1cb11e2fa53c"),
    (500, 333, _chequered, "a27fa267a0270a7b"),
    (64, 64, _plain, None),
]


def drawn(width: int, height: int, pixel: Pixel) -> Image.Image:
    """Draw a picture; values are taken modulo 256."""
    data = bytes(value % 256 for y in range(height) for x in range(width) for value in pixel(x, y))
    return Image.frombytes("RGB", (width, height), data)
