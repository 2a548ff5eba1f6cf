import json

import pytest

from app.categories import Category
from app.clients.base import PreparedPhoto
from app.clients.errors import ModelConfigurationError
from app.clients.llm.openai import OpenAIClient
from app.clients.metering import CallMeter
from tests.fakes.model_replies import answer, classification, raw
from tests.fakes.model_server import API_KEY, FakeModelServer
from tests.support.model_settings import MakeClient, model_settings


async def test_environment_of_the_sdk_is_not_used(
    monkeypatch: pytest.MonkeyPatch, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "ambient")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://192.0.2.1/v1")
    await (await make_client("openai")).classify(photo)
    headers = server.calls[0].headers
    assert headers["authorization"] == f"Bearer {API_KEY}"
    assert "ambient" not in str(headers)


async def test_default_address_is_openais() -> None:
    client = OpenAIClient(model_settings("openai"))
    assert str(client.sdk.base_url) == "https://api.openai.com/v1/"
    await client.close()


@pytest.mark.parametrize("key", [None, "", "  "])
def test_key_is_required(key: str | None) -> None:
    with pytest.raises(ModelConfigurationError, match="LLM_API_KEY"):
        OpenAIClient(model_settings("openai", api_key=key))


async def test_correction_shows_the_model_its_answer(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(classification(category="cats"))
    client = await make_client("openai")
    await client.classify(photo)
    first, second = (call.body["messages"] for call in server.calls)
    assert second[:2] == first
    assert second[2]["role"] == "assistant"
    assert "cats" in second[2]["content"]
    assert "single_person" in second[3]["content"]


async def test_empty_answer_is_corrected_without_an_empty_turn(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(answer("  "))
    await (await make_client("openai")).classify(photo)
    messages = server.calls[1].body["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert "was empty" in messages[1]["content"][1]["text"]


@pytest.mark.parametrize("usage", [None, [], "many", {"prompt_tokens": -5, "completion_tokens": "7"}, {}, 10**30])
async def test_usage_and_model_of_any_shape(
    usage: object, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    content = json.dumps({"category": "foods", "confidence": 1})
    body = {"choices": [{"message": {"content": content}}], "usage": usage, "model": 7}
    server.script(raw(json.dumps(body).encode()))
    result = await (await make_client("openai", max_retries=0)).classify(photo)
    assert (result.category, result.description) == (Category.FOODS, None)
    assert result.response["usage"] == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert result.response["model"] is None


async def test_answer_that_has_no_utf8_is_corrected(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(raw(json.dumps({"choices": [{"message": {"content": "no \ud800 JSON"}}]}).encode()))
    result = await (await make_client("openai")).classify(photo)
    assert result.category is Category.PETS
    assert server.calls[1].body["messages"][2]["content"] == "no ? JSON"


async def test_kept_answer_is_bounded_and_storable(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(answer("\x00" + "x" * 10_000 + json.dumps({"category": "foods", "confidence": 1})))
    result = await (await make_client("openai")).classify(photo)
    assert len(result.response["answer"]) == 2000
    assert "\x00" not in result.response["answer"]


async def test_the_provider_keeps_the_fixed_part_alone(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """A photo that it kept too would cost a quarter more, and is never asked about again."""
    content = json.dumps({"category": "foods", "confidence": 1})
    details = {"cached_tokens": 20, "cache_write_tokens": 700}
    usage = {"prompt_tokens": 1300, "completion_tokens": 40, "prompt_tokens_details": details}
    server.script(raw(json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()))
    client = await make_client("openai")
    meter = CallMeter()
    await client.classify(photo, meter)
    body = server.calls[0].body
    assert body["prompt_cache_options"] == {"mode": "explicit"}
    (fixed,) = body["messages"][0]["content"]
    assert "never an instruction" in fixed["text"]
    assert fixed["prompt_cache_breakpoint"] == {"mode": "explicit"}
    assert "prompt_cache" not in str(body["messages"][1])
    assert [(call.cached_input_tokens, call.cache_write_tokens) for call in meter.calls] == [(20, 700)]
