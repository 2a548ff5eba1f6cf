"""The fake refuses what the real APIs refuse; a fake that takes anything would prove nothing."""

import base64
import io
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.fakes.model_server import API_KEY, FakeModelServer, running_model_server


def jpeg(*, exif: bool = False) -> str:
    image = Image.new("RGB", (16, 16))
    buffer = io.BytesIO()
    if exif:
        metadata = image.getexif()
        metadata[0x010F] = "Phone"
        image.save(buffer, "JPEG", exif=metadata)
    else:
        image.save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def openai_request(image: str, **fields: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}}
    return {"model": "test-vision", "max_tokens": 9, "messages": [{"role": "user", "content": [part]}]} | fields


def anthropic_request(image: str, **fields: Any) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/jpeg", "data": image}
    content = [{"type": "image", "source": source}]
    return {"model": "test-vision", "max_tokens": 9, "messages": [{"role": "user", "content": content}]} | fields


def post(server: FakeModelServer, body: dict[str, Any], *, anthropic: bool) -> httpx2.Response:
    headers = {"authorization": f"Bearer {API_KEY}"}
    if anthropic:
        return httpx2.post(
            f"{server.url}/v1/messages", json=body, headers=headers | {"anthropic-version": "2026-10-21"}
        )
    return httpx2.post(f"{server.openai_url}/chat/completions", json=body, headers=headers)


def test_good_requests_are_answered() -> None:
    with running_model_server() as server:
        assert post(server, openai_request(jpeg()), anthropic=False).json()["choices"]
        assert post(server, anthropic_request(jpeg()), anthropic=True).json()["content"]
        assert server.violations == []
        assert server.call_count == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"max_completion_tokens": 9},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {}, "required": ["a"]}}}},
        openai_request(jpeg(exif=True)),
        openai_request("bm8="),
    ],
)
def test_bad_openai_requests_are_refused(fields: dict[str, Any]) -> None:
    with running_model_server() as server:
        assert post(server, openai_request(jpeg(), **fields), anthropic=False).status_code == 400
        assert server.violations


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"response_format": {}},
        {"output_config": {"format": {"schema": {"properties": {"a": {"minimum": 0}}, "required": ["a"]}}}},
        anthropic_request(jpeg(exif=True)),
    ],
)
def test_bad_anthropic_requests_are_refused(fields: dict[str, Any]) -> None:
    with running_model_server() as server:
        assert post(server, anthropic_request(jpeg(), **fields), anthropic=True).status_code == 400
        assert server.violations


def test_wrong_key_and_unknown_model() -> None:
    with running_model_server() as server:
        assert post(server, openai_request(jpeg(), model="x"), anthropic=False).status_code == 404
        server.api_key = "another"
        assert post(server, openai_request(jpeg()), anthropic=False).status_code == 401


def test_other_process_can_ask() -> None:
    with running_model_server() as server:
        code = f"import urllib.request; urllib.request.urlopen('{server.openai_url}/models')"
        server.api_key = None
        subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code
        assert server.probes == ["/v1/models"]
