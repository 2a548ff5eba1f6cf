"""What stands in the body of a response, whatever its form: what an error says, an error under a 200, an event stream.

A body is hostile: it is bounded before it gets here, and no shape of it makes these functions raise.
"""

import json
from collections.abc import Iterator
from typing import Any

from app.clients.llm.error_rules import find_rule

_SEARCHED_CHARACTERS = 20_000
_CODE_KEYS = {"code", "type", "error_code", "status", "reason"}
# What a validator quotes of the request (FastAPI) says nothing about the response.
_QUOTED_KEYS = {"input"}
_MAX_DEPTH = 8


def read_error(content: bytes) -> tuple[set[str], str]:
    """Return the codes of an error's body, and all texts in it, in lower case; only to be searched, never to be shown.

    Bodies in a body are read too: OpenRouter passes on what its provider said as text (`metadata.raw`).
    """
    node = _parsed(content)
    if node is None:
        return set(), content.decode(errors="replace")[:_SEARCHED_CHARACTERS].lower()
    codes: set[str] = set()
    texts = list(_walk(node, codes, "", _MAX_DEPTH))
    return codes, "\n".join(texts)[:_SEARCHED_CHARACTERS].lower()


def _walk(node: Any, codes: set[str], parent: str, depth: int) -> Iterator[str]:
    """Yield the texts below `node` and collect its codes; `parent` is the key that it stands under."""
    if depth == 0:
        return
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            is_code = isinstance(value, (str, int)) and not isinstance(value, bool)
            if is_code and key in _CODE_KEYS:
                codes.add(str(value).lower())
            elif is_code and parent == "base_resp" and key == "status_code":
                # MiniMax's numbers mean other things with Zhipu.
                codes.add(f"base_resp:{value}")
            if key not in _QUOTED_KEYS:
                yield from _walk(value, codes, key, depth - 1)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value, codes, parent, depth - 1)
    elif isinstance(node, str):
        yield node
        if node.lstrip()[:1] == "{" and (inner := _parsed(node.encode(errors="replace"))) is not None:
            yield from _walk(inner, codes, parent, depth - 1)


def settled(status: int, content: bytes) -> tuple[int, bytes]:
    """Return the status and the body that a response with a 2xx stands for.

    An event stream becomes the one answer that it is made of, and an error under a 200 gets the status that it names
    (https://openrouter.ai/docs/api/reference/errors-and-debugging), or 400 where its words are known. All else stays.
    """
    if content.lstrip()[:6].lower().startswith((b"data:", b"event:", b":")):
        content = _folded(content)
    if b'"error"' in content or b'"base_resp"' in content:
        return _status_inside(content) or status, content
    return status, content


def _status_inside(content: bytes) -> int | None:
    node = _parsed(content)
    if isinstance(node, list) and node:
        node = node[0]
    if not isinstance(node, dict):
        return None
    error = node.get("error") or _error_of_choice(node)
    base = node.get("base_resp")
    failed = isinstance(base, dict) and base.get("status_code") not in {0, None}
    if not (failed or (error and not _has_answer(node))):
        return None
    if isinstance(error, dict):
        for value in (error.get("code"), error.get("status"), error.get("status_code")):
            if str(value).isdecimal() and 400 <= int(str(value)) <= 599:
                return int(str(value))
    return 400 if find_rule(200, *read_error(content)) else None


def _error_of_choice(node: dict[str, Any]) -> Any:
    choices = node.get("choices")
    return choices[0].get("error") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _has_answer(node: dict[str, Any]) -> bool:
    choices = node.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message = choices[0].get("message")
        return isinstance(message, dict) and bool(message.get("content"))
    return bool(node.get("content") or node.get("data"))


def _folded(content: bytes) -> bytes:
    """Return the answer that an event stream is made of, its error, or the stream itself where it has neither."""
    events = [event for line in content.splitlines() if isinstance(event := _event(line), dict)]
    error = next((event for event in events if event.get("error")), None)
    answer = error or _message_of(events) or _completion_of(events)
    return content if answer is None else json.dumps(answer).encode()


def _event(line: bytes) -> Any:
    field, _, value = line.partition(b":")
    return _parsed(value) if field.strip() == b"data" else None


def _completion_of(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Put OpenAI's chunks together; None where the stream broke off before it said why it ends."""
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    answer: dict[str, Any] = {"object": "chat.completion", "model": None, "usage": None}
    finish = None
    for event in events:
        answer |= {key: event[key] for key in ("id", "model", "usage") if event.get(key)}
        choices = event.get("choices")
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            continue
        finish = choices[0].get("finish_reason") or finish
        part = choices[0].get("delta") or choices[0].get("message")
        if isinstance(part, dict):
            for name, pieces in texts.items():
                pieces.append(chunk_text(part.get(name)))
    if finish is None:
        return None
    message = {"role": "assistant"} | {name: "".join(pieces) or None for name, pieces in texts.items()}
    return answer | {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def _message_of(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Put Anthropic's events together; None where they are none, or broke off."""
    start: dict[str, Any] | None = next(
        (event["message"] for event in events if isinstance(event.get("message"), dict)), None
    )
    end = next((event for event in events if event.get("type") == "message_delta"), {})
    reason = end["delta"].get("stop_reason") if isinstance(end.get("delta"), dict) else None
    if start is None or reason is None:
        return None
    deltas = [event.get("delta") for event in events if event.get("type") == "content_block_delta"]
    text = "".join(chunk_text(delta.get("text")) for delta in deltas if isinstance(delta, dict))
    usages = [usage for usage in (start.get("usage"), end.get("usage")) if isinstance(usage, dict)]
    usage = {name: value for each in usages for name, value in each.items()}
    return start | {"content": [{"type": "text", "text": text}], "stop_reason": reason, "usage": usage}


def chunk_text(content: object) -> str:
    """Return the text of a `content`, which is a text or a list of chunks; chunks that are no text are passed over."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        text for chunk in content if isinstance(text := chunk.get("text") if isinstance(chunk, dict) else chunk, str)
    )


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
