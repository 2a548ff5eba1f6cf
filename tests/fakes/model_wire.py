"""OpenAI's and Anthropic's wire formats: what they check in a request, and what their answers and errors look like.

A check gives the sentence and the status with which the real API refuses; the wording follows theirs where clients
look at it.
"""

import base64
import binascii
import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

from tests.fakes.model_replies import Reply

_OPENAI_FIELDS = {
    "model",
    "messages",
    "response_format",
    "reasoning_effort",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "logprobs",
    "top_logprobs",
    "prompt_cache_options",
}
# Of servers that speak OpenAI's language with words of their own; what each says for "without thoughts".
THINKING_SWITCHES: dict[str, Any] = {
    "thinking": {"type": "disabled"},
    "enable_thinking": False,
    "chat_template_kwargs": {"enable_thinking": False},
}
_ANTHROPIC_FIELDS = {"model", "messages", "max_tokens", "system", "thinking", "output_config"}
# Tokens of each answer, whatever it says.
USAGE = {"input": 1300, "output": 40}


def openai_complaints(body: dict[str, Any], refuses: set[str]) -> Iterator[str]:
    """Give what Chat Completions would say against a request, worst first."""
    yield from (
        f"Unrecognized request argument supplied: {name}"
        for name in body.keys() - _OPENAI_FIELDS - THINKING_SWITCHES.keys()
    )
    limits = {"max_tokens", "max_completion_tokens"} & body.keys()
    if len(limits) != 1:
        yield "Setting one of 'max_tokens' and 'max_completion_tokens' is expected."
    yield from (f"Unsupported parameter: '{name}' is not supported with this model." for name in limits & refuses)
    if "reasoning_effort" in body and "reasoning_effort" in refuses:
        yield "Unsupported parameter: 'reasoning_effort' is not supported with this model."
    if body.get("reasoning_effort") == "none" and "reasoning_none" in refuses:
        yield "Unsupported value: 'reasoning_effort' does not support 'none' with this model."
    yield from _openai_format_complaints(body, refuses)
    if "logprobs" in body and "logprobs" in refuses:
        yield "Logprobs is not enabled for this model."
    if "prompt_cache_options" in body and "prompt_cache" in refuses:
        yield "Unknown parameter: 'prompt_cache_options'."
    if "top_logprobs" in body and not (body.get("logprobs") is True and 0 <= body["top_logprobs"] <= 20):
        yield "'top_logprobs' is from 0 to 20, and needs 'logprobs'."
    if "image" in refuses:
        yield "Invalid content type. image_url is only supported by certain models."
    if "system" in refuses and body["messages"][0]["role"] == "system":
        yield "prompting with images is incompatible with system messages"
    if "data_url" in refuses and any(url.startswith("data:") for url in _image_urls(body)):
        yield "图片输入格式/解析错误"
    if "thinking" in refuses and body.get("enable_thinking") is not False:
        yield "parameter.enable_thinking must be set to false for non-streaming calls"
    if _openai_image(body) is None:
        yield "The messages hold no JPEG, as a data URL or as Base64."


def _openai_format_complaints(body: dict[str, Any], refuses: set[str]) -> Iterator[str]:
    wanted = body.get("response_format", {"type": "text"})
    if wanted["type"] in refuses:
        yield f"'response_format.type' must not be '{wanted['type']}'"
    if wanted["type"] == "json_schema":
        yield from _schema_complaints(wanted["json_schema"]["schema"])
    if wanted["type"] == "json_object" and "json" not in str(body["messages"]).lower():
        yield "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."


def anthropic_complaints(body: dict[str, Any], refuses: set[str]) -> Iterator[str]:
    """Give what the Messages API would say against a request, worst first."""
    yield from (f"{name}: Extra inputs are not permitted" for name in body.keys() - _ANTHROPIC_FIELDS)
    yield from (f"{name}: Field required" for name in {"model", "messages", "max_tokens"} - body.keys())
    if body.get("thinking", {}).get("type") == "disabled" and refuses & {"reasoning_effort", "reasoning_none"}:
        yield "thinking.type: disabled is not supported for this model"
    output = body.get("output_config", {})
    if "effort" in output and "reasoning_effort" in refuses:
        yield "This model does not support the effort parameter."
    if "format" in output:
        if "json_schema" in refuses:
            yield "output_config.format: Extra inputs are not permitted"
        yield from _schema_complaints(output["format"]["schema"])
    if "image" in refuses:
        yield "messages.0.content.0: this model does not support image input"
    if body["messages"][0]["role"] != "user" or body["messages"][-1]["role"] != "user":
        yield "messages: the first and the last turn must be the user's"
    if _anthropic_image(body) is None:
        yield "messages: there is no image block with base64 data of a JPEG"


def request_image(body: dict[str, Any]) -> bytes | None:
    """Return the picture in a request of either format, if there is one and it is a JPEG without metadata."""
    return _openai_image(body) or _anthropic_image(body)


def openai_body(reply: Reply, model: str, *, thoughts: str | None = None) -> dict[str, Any]:
    """Give `reply` the form of a chat completion, with `thoughts` beside it, or of an error when its status is one."""
    if reply.status >= 400:
        error = {"message": reply.message, "type": "invalid_request_error", "param": None, "code": reply.code}
        return {"error": error}
    refused = reply.finish == "refusal"
    message = {
        "role": "assistant",
        "content": None if refused else reply.text,
        "refusal": "I'm sorry, I can't assist with that." if refused else None,
    }
    if thoughts is not None:
        message["reasoning_content"] = thoughts
    choice = {"index": 0, "message": message, "finish_reason": "stop" if refused else reply.finish}
    if reply.logprobs is not None:
        choice["logprobs"] = {"content": reply.logprobs, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": f"{model}-2026-09-22",
        "choices": [choice],
        "usage": {
            "prompt_tokens": USAGE["input"],
            "completion_tokens": USAGE["output"],
            "total_tokens": sum(USAGE.values()),
        },
    }


def anthropic_body(reply: Reply, model: str) -> dict[str, Any]:
    """Give `reply` the form of a message, or of an error when its status is one."""
    if reply.status >= 400:
        return {"type": "error", "error": {"type": reply.code or "invalid_request_error", "message": reply.message}}
    reasons = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal", "content_filter": "refusal"}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": f"{model}-20261007",
        "content": [{"type": "text", "text": reply.text}] if reply.text else [],
        "stop_reason": reasons[reply.finish],
        "stop_sequence": None,
        "usage": {"input_tokens": USAGE["input"], "output_tokens": USAGE["output"]},
    }


def _schema_complaints(schema: dict[str, Any]) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield "schema: 'additionalProperties' is required to be false"
    if set(schema["required"]) != set(schema["properties"]):
        yield "schema: every property must be required"
    for name, field in schema["properties"].items():
        yield from (
            f"schema: for property '{name}', '{keyword}' is not supported"
            for keyword in field.keys() - {"type", "enum", "description"}
        )


def _openai_image(body: dict[str, Any]) -> bytes | None:
    for url in _image_urls(body):
        return _clean_jpeg(url.removeprefix("data:image/jpeg;base64,"))
    return None


def _image_urls(body: dict[str, Any]) -> Iterator[str]:
    for part in _parts(body):
        if part.get("type") == "image_url":
            yield part["image_url"]["url"]


def _anthropic_image(body: dict[str, Any]) -> bytes | None:
    for part in _parts(body):
        source = part.get("source", {})
        if part.get("type") == "image" and source.get("type") == "base64" and source["media_type"] == "image/jpeg":
            return _clean_jpeg(source["data"])
    return None


def _parts(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for message in body.get("messages", []):
        if isinstance(message.get("content"), list):
            yield from message["content"]


def _clean_jpeg(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            image.load()
            clean = not image.getexif() and "exif" not in image.info
    except (binascii.Error, OSError):
        return None
    return data if clean else None
