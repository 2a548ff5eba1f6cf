"""`python -m bench.decoding`: what it costs to make of a photo what the model is shown; medians of three.

The pictures are a sample enlarged, with the grain of a sensor, so that a file is as large as a phone's.
"""

import statistics
from collections.abc import Callable

import numpy as np
from PIL import Image

from bench.requests import GRAIN, SAMPLE, make_photo
from tests.fakes.images import encode
from tests.photo.test_limits import cost_of

PHONE = (4032, 3024)
RUNS = 3


def main() -> None:
    """Print the table."""
    phone, screen = _picture(PHONE, GRAIN), _picture((1170, 2532), 0)
    photos: dict[str, Callable[[], bytes]] = {
        "JPEG, 1024 x 683, not decoded": make_photo,
        "JPEG, 12 megapixels": lambda: encode(phone, "JPEG", quality=85),
        "JPEG, 12 megapixels, progressive": lambda: encode(phone, "JPEG", quality=85, progressive=True),
        "JPEG, 48 megapixels": lambda: encode(phone.resize((8064, 6048)), "JPEG", quality=60),
        "PNG, screen of 3 megapixels": lambda: encode(screen, "PNG"),
        "WebP, 12 megapixels": lambda: encode(phone, "WEBP", quality=75, method=0),
        "HEIC, 12 megapixels": lambda: encode(phone, "HEIF", quality=50, enc_params={"preset": "ultrafast"}),
    }
    print("| photo | file, MB | CPU, s | memory, MB |\n| --- | ---: | ---: | ---: |")
    for name, make in photos.items():
        photo = make()
        costs = [cost_of(photo) for _ in range(RUNS)]
        cpu_seconds = statistics.median(cost["cpu"] for cost in costs)
        megabytes = statistics.median(cost["own"] + cost["child"] for cost in costs) / 1e6
        print(f"| {name} | {len(photo) / 1e6:.1f} | {cpu_seconds:.3f} | {megabytes:.0f} |", flush=True)


def _picture(size: tuple[int, int], grain: float) -> Image.Image:
    with Image.open(SAMPLE) as sample:
        picture = np.asarray(sample.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, grain, (*picture.shape[:2], 1)).astype(np.float32)
    return Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
