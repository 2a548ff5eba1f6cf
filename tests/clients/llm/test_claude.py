import json
from typing import Any

import pytest

from app.clients.base import PreparedPhoto
from app.clients.errors import ModelConfigurationError
from app.clients.llm.claude import ClaudeClient
from tests.fakes.model_replies import classification, raw
from tests.fakes.model_server import API_KEY, FakeModelServer
from tests.support.model_settings import MakeClient, model_settings


async def test_environment_of_the_sdk_is_not_used(
    monkeypatch: pytest.MonkeyPatch, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.setenv(name, "ambient")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://192.0.2.1")
    await (await make_client("claude")).classify(photo)
    assert API_KEY in str(server.calls[0].headers)
    assert "ambient" not in str(server.calls[0].headers)


async def test_spans_of_the_sdk_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would hold the photo."""
    monkeypatch.setenv("ANTHROPIC_OPEN_TELEMETRY", "true")
    monkeypatch.setenv("ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE", "content")
    client = ClaudeClient(model_settings("claude"))
    assert client.sdk.open_telemetry["traces"]["enabled"] is False
    await client.close()


async def test_default_address_is_anthropics() -> None:
    client = ClaudeClient(model_settings("claude"))
    assert str(client.sdk.base_url) == "https://api.anthropic.com"
    await client.close()


def test_key_is_required() -> None:
    with pytest.raises(ModelConfigurationError, match="LLM_API_KEY"):
        ClaudeClient(model_settings("claude", api_key=None))


async def test_correction_shows_the_model_its_answer(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(classification(category="cats"))
    await (await make_client("claude")).classify(photo)
    first, second = (call.body["messages"] for call in server.calls)
    assert second[:1] == first
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert "cats" in second[1]["content"]


async def test_thoughts_are_not_the_answer_and_cached_input_is_counted(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    text = json.dumps({"category": "foods", "confidence": 0.5})
    body: dict[str, Any] = {
        "content": [
            {"type": "thinking", "thinking": '{"category": "pets"}', "signature": "x"},
            {"type": "text", "text": text[:10]},
            {"type": "text", "text": text[10:]},
        ],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 5},
    }
    server.script(raw(json.dumps(body).encode()))
    result = await (await make_client("claude")).classify(photo)
    assert result.category == "foods"
    (fixed,) = server.calls[0].body["system"]
    assert fixed["cache_control"] == {"type": "ephemeral"}
    assert result.response["usage"] == {"input_tokens": 110, "output_tokens": 5, "total_tokens": 115}
