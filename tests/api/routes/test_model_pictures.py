"""What a model is sent of an upload, and what it is not asked about at all."""

import io

import httpx2
import pytest
from PIL import Image

from tests.fakes import images
from tests.fakes.model_replies import failure
from tests.fakes.model_server import FakeModelServer
from tests.photo.test_readable import DECODABLE_BY_NOBODY
from tests.support.classify import error_code, photo, upload


@pytest.mark.parametrize("name", DECODABLE_BY_NOBODY)
async def test_a_jpeg_that_nobody_can_show_costs_no_call(
    name: str, api: httpx2.AsyncClient, model_server: FakeModelServer
) -> None:
    answer = await upload(api, DECODABLE_BY_NOBODY[name])
    assert (answer.status_code, error_code(answer)) == (400, "corrupt_image")
    assert model_server.call_count == 0


async def test_tiny_and_long_pictures_are_answered(api: httpx2.AsyncClient, model_server: FakeModelServer) -> None:
    """As `../shared/cases/tiny_20x20` and `long_400x20000`."""
    for size in ((20, 20), (400, 20_000)):
        answer = await upload(api, images.encode(Image.new("RGB", size, images.RED), "JPEG"))
        assert answer.status_code == 200
    for call in model_server.calls:
        assert call.jpeg is not None
        width, height = Image.open(io.BytesIO(call.jpeg)).size
        assert 32 <= min(width, height) <= max(width, height) <= 1024


async def test_a_refused_picture_stops_no_other(api: httpx2.AsyncClient, model_server: FakeModelServer) -> None:
    """As `../shared/cases/provider_picture_refused_403`."""
    model_server.script(failure(403, message="Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"))
    refused = await upload(api, photo(60))
    assert (refused.status_code, error_code(refused)) == (502, "model_refused")
    assert model_server.call_count == 1
    assert (await upload(api, photo(61))).status_code == 200
