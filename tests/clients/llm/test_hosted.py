"""The negotiation of a request's form: what a server refuses is left out, and what worked is remembered."""

import base64
import json
from typing import Any

import pytest

from app.categories import Category
from app.clients.base import PreparedPhoto
from app.clients.errors import ModelNotFound, ModelRefused, ModelRejectedRequest
from app.clients.llm import hosted
from tests.fakes.model_replies import failure, raw, refusal
from tests.fakes.model_server import FakeModelServer
from tests.fakes.model_wire import THINKING_SWITCHES
from tests.support.model_settings import MakeClient

# What is refused, by whom, and the requests that the first photo then costs.
LADDERS = [
    ("openai", {"prompt_cache"}, 2),
    ("openai", {"json_schema"}, 2),
    ("openai", {"json_schema", "json_object"}, 3),
    ("openai", {"max_completion_tokens"}, 2),
    ("openai", {"reasoning_none"}, 2),
    ("openai", {"reasoning_effort"}, 3),
    ("openai", {"json_schema", "json_object", "max_completion_tokens", "reasoning_effort"}, 6),
    ("custom", {"json_object"}, 1),
    ("custom", {"json_schema"}, 2),
    ("custom", {"json_schema", "json_object"}, 3),
    ("custom", {"max_tokens"}, 2),
    ("custom", {"json_schema", "json_object", "max_tokens", "reasoning_effort"}, 6),
    ("custom", {"system"}, 2),
    ("custom", {"data_url"}, 2),
    ("custom", {"thinking"}, 2),
    ("custom", {"json_schema", "json_object", "max_tokens", "reasoning_effort", "system", "data_url"}, 8),
    ("claude", {"json_schema"}, 2),
    ("claude", {"reasoning_none"}, 2),
    ("claude", {"reasoning_effort"}, 3),
    ("claude", {"json_schema", "reasoning_effort"}, 4),
]


@pytest.mark.parametrize(("provider", "refuses", "requests"), LADDERS)
async def test_refused_parts_are_left_out_and_stay_out(
    provider: str,
    refuses: set[str],
    requests: int,
    server: FakeModelServer,
    make_client: MakeClient,
    photo: PreparedPhoto,
) -> None:
    server.refuses = refuses
    client = await make_client(provider, max_retries=0)
    assert (await client.classify(photo)).category is Category.PETS
    assert server.call_count == requests
    assert (await client.classify(photo)).category is Category.PETS
    assert server.call_count == requests + 1


def form_of(body: dict[str, Any]) -> tuple[Any, ...]:
    wanted = body.get("response_format", {}).get("type")
    return wanted, body.get("reasoning_effort"), "max_tokens" in body, "max_completion_tokens" in body


async def test_first_form_of_each_provider(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    for provider in ("openai", "custom", "claude"):
        await (await make_client(provider, max_tokens=321)).classify(photo)
    openai, custom, claude = (call.body for call in server.calls)
    assert form_of(openai) == ("json_schema", "none", False, True)
    assert form_of(custom) == ("json_schema", "none", True, False)
    assert openai["max_completion_tokens"] == custom["max_tokens"] == claude["max_tokens"] == 321
    assert claude["thinking"] == {"type": "disabled"}
    assert claude["output_config"]["format"]["type"] == "json_schema"


async def test_thinking_that_cannot_be_switched_off_is_kept_short(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.refuses = {"reasoning_none"}
    for provider in ("openai", "claude"):
        await (await make_client(provider)).classify(photo)
    assert server.calls[1].body["reasoning_effort"] == "low"
    assert server.calls[3].body["output_config"]["effort"] == "low"
    assert "thinking" not in server.calls[3].body


@pytest.mark.parametrize("provider", ["openai", "custom", "claude"])
async def test_model_that_cannot_see(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.refuses = {"image"}
    with pytest.raises(ModelRejectedRequest) as raised:
        await (await make_client(provider)).classify(photo)
    assert "can see" in str(raised.value.advice)
    assert server.call_count == 1


@pytest.mark.parametrize(("provider", "forms"), [("openai", 8), ("custom", 9), ("claude", 4)])
@pytest.mark.parametrize("body", [b'{"error": "no"}', b"", b"\xff", b"[" * 5000])
async def test_every_form_is_refused(
    provider: str,
    forms: int,
    body: bytes,
    server: FakeModelServer,
    make_client: MakeClient,
    photo: PreparedPhoto,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.default = raw(body, 400)
    client = await make_client(provider)
    for calls in (forms, forms + 1, forms + 2):
        with pytest.raises(ModelRejectedRequest) as raised:
            await client.classify(photo)
        assert "every form" in str(raised.value.advice)
        assert server.call_count == calls
    monkeypatch.setattr(hosted, "GUESS_AGAIN_SECONDS", 0.0)
    client = await make_client(provider)
    for times in (1, 2):
        with pytest.raises(ModelRejectedRequest):
            await client.classify(photo)
        assert server.call_count == forms + 2 + times * forms


@pytest.mark.parametrize("provider", ["openai", "custom", "claude"])
async def test_a_form_that_leads_to_a_refusal_of_the_picture_is_remembered(
    provider: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.refuses = {"json_schema"}
    server.script(refusal())
    client = await make_client(provider)
    with pytest.raises(ModelRefused):
        await client.classify(photo)
    await client.classify(photo)
    assert server.call_count == 3


async def test_what_only_a_passing_refusal_needed_is_not_remembered(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """The lower form got no answer either, so nothing is known about it."""
    server.script(failure(400, message="response_format is not supported"), failure(404))
    client = await make_client("custom", max_retries=0)
    with pytest.raises(ModelNotFound):
        await client.classify(photo)
    await client.classify(photo)
    assert [form_of(call.body)[0] for call in server.calls] == ["json_schema", "json_object", "json_schema"]


async def test_instructions_without_a_system_message(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """As `../shared/cases/provider_system_refused`: they stand before the question, once."""
    server.refuses = {"system"}
    client = await make_client("custom")
    await client.classify(photo)
    (message,) = server.calls[1].body["messages"]
    assert message["role"] == "user"
    text = message["content"][1]["text"]
    assert text.count("You sort photos") == 1
    assert text.endswith("Reply with the JSON object only.")


async def test_a_picture_as_bare_base64(server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto) -> None:
    """As `../shared/cases/provider_raw_base64`."""
    server.refuses = {"data_url"}
    await (await make_client("custom")).classify(photo)
    url = server.calls[1].body["messages"][1]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url, validate=True) == photo.jpeg


@pytest.mark.parametrize(("switch", "answers"), [("thinking", 1), ("enable_thinking", 2), ("chat_template_kwargs", 3)])
async def test_thoughts_are_switched_off_in_the_servers_own_way(
    switch: str, answers: int, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """A server that passes over `reasoning_effort` shows it by the thoughts in its answer; that costs no request."""
    server.thinks_unless = switch
    client = await make_client("custom")
    for _ in range(5):
        await client.classify(photo)
    assert server.call_count == 5
    assert [switch in call.body for call in server.calls[answers:]] == [True] * (5 - answers)
    assert "reasoning_effort" not in server.calls[-1].body


async def test_thoughts_that_nothing_switches_off(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.thinks_unless = "nothing"
    client = await make_client("custom")
    for _ in range(6):
        await client.classify(photo)
    assert server.call_count == 6
    assert not server.calls[-1].body.keys() & THINKING_SWITCHES.keys()


async def test_a_picture_that_a_proven_form_does_not_carry_is_asked_about_once(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    """What the server has taken before is not given up for one picture that it does not take."""
    client = await make_client("custom")
    await client.classify(photo)
    server.script(failure(400, message="图片输入格式/解析错误"), failure(400, message="no"))
    for calls in (2, 3):
        with pytest.raises(ModelRejectedRequest):
            await client.classify(photo)
        assert server.call_count == calls
    await client.classify(photo)
    assert form_of(server.calls[-1].body) == form_of(server.calls[0].body)


async def test_words_of_known_servers(server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto) -> None:
    """Refusals as LM Studio, vLLM, Ollama and llama.cpp word them; none is shaped like OpenAI's."""
    refusals: list[dict[str, Any]] = [
        {"error": "'response_format.type' must be 'json_schema' or 'text'"},
        {"detail": [{"loc": ["body", "reasoning_effort"], "msg": "Extra inputs are not permitted", "input": "none"}]},
        {"error": {"message": '"qwen" does not support thinking', "type": "invalid_request_error"}},
        {"error": {"code": 400, "message": "failed to parse grammar", "type": "invalid_request_error"}},
    ]
    client = await make_client("custom", max_retries=0)
    server.script(*(raw(json.dumps(refusal).encode(), 422 if "detail" in refusal else 400) for refusal in refusals))
    assert (await client.classify(photo)).category is Category.PETS
    assert [form_of(call.body)[:2] for call in server.calls] == [
        ("json_schema", "none"),
        ("json_object", "none"),
        ("json_object", "low"),
        ("json_object", None),
        (None, None),
    ]
