"""Photos over HTTP: what phones make is classified, what is hostile is refused, and the model sees a clean picture."""

import asyncio
import io

import httpx2
import pytest
from PIL import Image

from tests.fakes import images
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import MISS, check, error_code, sha256, upload


def converted(mode: str, name: str) -> bytes:
    file = io.BytesIO()
    images.quadrants(200, 150).convert(mode).save(file, name)
    return file.getvalue()


ACCEPTED = {
    "jpeg": images.jpeg_photo(),
    "large jpeg": images.noisy_jpeg(3000, 2000),
    "png": images.png_photo(),
    "webp": images.encode(images.quadrants(200, 150), "WEBP"),
    "gif": images.animated_gif(),
    "animated webp": images.animated_webp(),
    "bmp": images.encode(images.quadrants(200, 150), "BMP"),
    "heic": images.heic_photo(),
    "avif": images.avif_photo(),
    "heic with a tail": images.heic_photo() + b"SEFT and more",
    "avif with a tail": images.avif_photo() + b"\n",
    "cmyk jpeg": converted("CMYK", "JPEG"),
    "16-bit png": converted("I;16", "PNG"),
    "1x1": images.png_photo(1, 1),
    "rotated": images.exif_rotated(6, width=100, height=200),
    "with gps": images.gps_tagged(),
    "polyglot": images.zip_polyglot(images.jpeg_photo()),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_photos_are_classified_and_arrive_clean_at_the_model(
    api: httpx2.AsyncClient, model_server: FakeModelServer, name: str
) -> None:
    data = ACCEPTED[name]
    # Neither the file name nor the declared type counts.
    response = await api.post("/classify", files={"image": ("photo.txt", data, "text/plain")})
    assert response.status_code == 200, response.text
    assert (await check(api, sha256(data))).json()["cached"] is True
    [call] = model_server.calls
    # The fake notes no JPEG when the picture is anything else or carries metadata.
    assert call.jpeg is not None
    with Image.open(io.BytesIO(call.jpeg)) as seen:
        assert max(seen.size) <= 1024
        if name == "rotated":
            assert seen.size == images.quadrants(100, 200).size
    assert len(call.jpeg) <= 500_000


REFUSED = {
    "text": (b"hello, this is not a photo at all", "unsupported_image_format"),
    "nothing": (b"", "unsupported_image_format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image_format"),
    "tiff": (images.encode(images.quadrants(20, 20), "TIFF"), "unsupported_image_format"),
    "cut-off jpeg": (images.truncated(images.jpeg_photo()), "corrupt_image"),
    "cut-off png": (images.truncated(images.png_photo()), "corrupt_image"),
    "cut-off heic": (images.truncated(images.heic_photo()), "corrupt_image"),
    "jpeg header lie": (images.jpeg_header_lie(65000, 65000), "too_many_pixels"),
    "png header lie": (images.png_header_lie(60000, 60000), "too_many_pixels"),
    "heic size lie": (images.heic_size_lie(60000, 60000), "too_many_pixels"),
    "hundreds of scans": (images.progressive_bomb(500, 6000, 6000), "image_too_complex"),
    "png bomb": (images.png_bomb(5000, 5000), "image_too_complex"),
    "cut-off webp": (images.truncated(images.animated_webp()), "corrupt_image"),
    "webp canvas bomb": (images.webp_canvas_bomb(16383, 3000), "image_too_complex"),
    "gif size lie": (images.gif_size_lie(60000, 60000), "too_many_pixels"),
    "bmp of two bits": (images.bmp_header(28, "<H", 2), "unsupported_image_format"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_hostile_images_are_refused_with_a_reason(
    api: httpx2.AsyncClient, model_server: FakeModelServer, name: str
) -> None:
    data, code = REFUSED[name]
    # And again: the first one has left nothing behind that the second would wait for.
    for _ in range(2):
        response = await asyncio.wait_for(upload(api, data), 20)
        assert (response.status_code, error_code(response)) == (400, code)
    assert model_server.call_count == 0
    assert (await check(api, sha256(data))).json() == MISS
