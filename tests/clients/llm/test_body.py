"""Answers in forms that the API does not promise: event streams, lists of chunks, errors under a 200."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.categories import Category
from app.clients.base import PreparedPhoto
from app.clients.errors import ModelAnswerInvalid, ModelResponseInvalid, ModelUnreachable
from app.clients.llm.body import chunk_text, read_error, settled
from tests.fakes.model_replies import raw
from tests.fakes.model_server import FakeModelServer
from tests.support.model_scenarios import JSON
from tests.support.model_settings import MakeClient


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], "model": "m", **fields}


def stream(*events: dict[str, Any], beginning: str = "", space: str = " ", end: str = "data: [DONE]\n\n") -> bytes:
    return (beginning + "".join(f"data:{space}{json.dumps(event)}\n\n" for event in events) + end).encode()


WHOLE = [chunk({"role": "assistant", "content": JSON[:9]}), chunk({"content": JSON[9:]}), chunk(finish="stop")]
STREAMS = {
    "plain": stream(*WHOLE),
    "without spaces": stream(*WHOLE, space=""),
    "with comments": stream(*WHOLE, beginning=": OPENROUTER PROCESSING\n\n"),
    "with names": stream(*WHOLE, beginning="event: message\n"),
    "without an end mark": stream(*WHOLE, end=""),
    "with thoughts": stream(chunk({"reasoning_content": '{"category": "foods"}'}), *WHOLE),
    "chunks of chunks": stream(chunk({"content": [{"type": "text", "text": JSON}]}, finish="stop")),
    "whole at the end": stream({"choices": [{"message": {"content": JSON}, "finish_reason": "stop"}]}),
    "usage at the end": stream(*WHOLE, {"choices": [], "usage": {"prompt_tokens": 1300, "completion_tokens": 40}}),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_an_event_stream_is_read(
    name: str, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(raw(STREAMS[name]))
    result = await (await make_client("custom")).classify(photo)
    assert result.category is Category.PETS
    assert server.call_count == 1
    if name == "usage at the end":
        assert result.response["usage"]["total_tokens"] == 1340


async def test_streams_are_not_asked_for(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    for provider in ("openai", "custom"):
        await (await make_client(provider)).classify(photo)
    assert [call.body["stream"] for call in server.calls] == [False, False]


async def test_a_stream_of_claude(server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto) -> None:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "m", "content": [], "usage": {"input_tokens": 9}}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "{}"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": JSON}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
    ]
    server.script(raw(stream(*events, beginning="event: message_start\n", end="")))
    result = await (await make_client("claude")).classify(photo)
    assert (result.category, result.response["usage"]["total_tokens"]) == (Category.PETS, 13)


async def test_a_stream_that_breaks_off_is_asked_again(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(raw(stream(*WHOLE[:2], end="")))
    await (await make_client("custom")).classify(photo)
    assert server.call_count == 2


async def test_an_error_in_a_stream(server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto) -> None:
    server.default = raw(stream(WHOLE[0], {"error": {"code": 502, "message": "x"}}))
    with pytest.raises(ModelUnreachable):
        await (await make_client("custom", max_retries=0)).classify(photo)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": JSON}],
        [{"type": "text", "text": JSON[:5]}, {"type": "text", "text": JSON[5:]}],
        [JSON],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "{}"}]}, {"type": "text", "text": JSON}],
    ],
)
async def test_content_may_be_a_list_of_chunks(
    content: object, server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.script(raw(json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()))
    assert (await (await make_client("custom")).classify(photo)).category is Category.PETS
    assert server.call_count == 1


async def test_chunks_without_text_are_an_empty_answer(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = raw(b'{"choices": [{"message": {"content": [{"type": "thinking"}, 7, null]}}]}')
    with pytest.raises(ModelAnswerInvalid):
        await (await make_client("custom")).classify(photo)


async def test_an_answer_that_its_server_lost_is_asked_again(
    server: FakeModelServer, make_client: MakeClient, photo: PreparedPhoto
) -> None:
    server.default = raw(b'{"choices": [{"message": {"content": "{"}, "finish_reason": "network_error"}]}')
    with pytest.raises(ModelResponseInvalid):
        await (await make_client("custom", max_retries=1)).classify(photo)
    assert server.call_count == 2


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "x"}}], "error": {"code": 429}},
        {"choices": [{"message": {"content": "x"}, "error": None}], "base_resp": {"status_code": 0}},
        {"data": [{"id": "error"}], "error": None},
        {"error": {"message": "upstream failed"}},
        {"error": None},
    ],
)
def test_what_has_an_answer_or_no_known_error_stays(body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    assert settled(200, content) == (200, content)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(content: bytes) -> None:
    settled(200, content)
    settled(200, b"data: " + content)
    settled(200, b'{"error": ' + content)
    read_error(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "error", "message", "delta", "content", "base_resp", "code", "usage", "type"]),
            children,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_can_be_looked_at(value: Any) -> None:
    content = json.dumps(value).encode()
    settled(200, content)
    settled(200, b"data: " + content)
    read_error(content)
    chunk_text(value)


def test_what_is_nested_beyond_reason_is_not_followed() -> None:
    node: Any = {"code": "deep"}
    for _ in range(200):
        node = [node]
    assert read_error(json.dumps(node).encode())[0] == set()
