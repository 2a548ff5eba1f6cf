"""Classify photos from Python: compress, hash, check the cache, upload on a miss. `pip install httpx2 pillow`"""

import hashlib
import io
import math
import statistics
import sys
import time
import uuid
from operator import mul
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image, ImageOps

API = "http://127.0.0.1:8000/api/v1"


class ClassifyError(Exception):
    """Its two arguments are the error's code and message."""


def compress_image(path: str | Path, max_edge: int = 1024, quality: int = 80) -> bytes:
    """Return the photo as a JPEG: upright, at most `max_edge` pixels long, without metadata."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * max_edge, 2 * max_edge))  # a large JPEG is decoded at half the size
        photo = ImageOps.exif_transpose(image)
    if photo.mode.startswith("I;16"):  # a scan, which Pillow would make white
        photo = photo.point(lambda value: value / 256).convert("L")
    if photo.has_transparency_data:
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
    photo = photo.convert("RGB")
    photo.thumbnail((max_edge, max_edge))
    jpeg = io.BytesIO()
    photo.save(jpeg, "JPEG", quality=quality, comment=b"")  # Pillow would keep the photo's comment
    return jpeg.getvalue()


def perceptual_hash(jpeg: bytes) -> str | None:
    """Return 64 bits in hex that a similar photo has, too, as docs/api.md specifies them; None where there are none."""
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            small = image.convert("RGB").convert("L").resize((32, 32), Image.Resampling.LANCZOS)
            (low, high), short, long = small.getextrema(), min(image.size), max(image.size)
    except OSError:
        return None
    if short < 32 or long > 8 * short or high - low < 24:
        return None
    luma = small.tobytes()
    waves = [[math.cos((2 * place + 1) * frequency * math.pi / 64) for place in range(32)] for frequency in range(8)]
    across = [[sum(map(mul, luma[row : row + 32], wave)) for row in range(0, 1024, 32)] for wave in waves]
    values = [sum(map(mul, column, wave)) for wave in waves for column in across]
    middle = statistics.median(values)
    return f"{int(''.join('01'[value > middle] for value in values), 2):016x}"


def classify_photo(data: bytes, user_id: str = "") -> dict[str, Any]:
    """Return the service's answer; `["data"]["category"]` is the category. Raises ClassifyError."""
    image_hash = hashlib.sha256(data).hexdigest()
    headers = {"X-User-ID": user_id, "Idempotency-Key": str(uuid.uuid4())}  # a repeat counts once
    cached = call(
        "/classify/check-cache",
        headers=headers,
        json={"image_hash": image_hash, "perceptual_hash": perceptual_hash(data)},
    )
    if cached["cached"]:
        return cached
    form = {"data": {"image_hash": image_hash}, "files": {"image": ("photo.jpg", data, "image/jpeg")}}
    return call("/classify", headers=headers, **form)


def call(path: str, attempts: int = 3, **request: Any) -> dict[str, Any]:
    """POST to the service; a lost answer is asked for again, a 503 with Retry-After after that many seconds."""
    try:
        response = httpx2.post(API + path, timeout=120, **request)
    except httpx2.TransportError as error:
        if attempts == 1:
            raise ClassifyError("network_error", type(error).__name__) from error
        time.sleep(1)
        return call(path, attempts - 1, **request)
    pause = response.headers.get("Retry-After")
    if response.status_code == 503 and pause and attempts > 1:
        time.sleep(int(pause))
        return call(path, attempts - 1, **request)
    answer: dict[str, Any] = response.json() if "json" in response.headers.get("Content-Type", "") else {}
    if answer.get("success"):
        return answer
    error = answer.get("error") or {"code": "http_error", "message": f"HTTP {response.status_code}"}
    raise ClassifyError(error["code"], error["message"])


if __name__ == "__main__":
    for photo in sys.argv[1:]:
        print(photo, classify_photo(compress_image(photo), "device-1")["data"]["category"])
