"""A model that answers at once: OpenAI's wire format, always the same words, so that only our own work is measured."""

import json

from starlette.types import Receive, Scope, Send

from tests.fakes.model_replies import classification
from tests.fakes.model_wire import openai_body

MODEL = "instant"

_BODY = json.dumps(openai_body(classification(), MODEL), ensure_ascii=False).encode()
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request and give the one answer, as a bare ASGI application."""
    if scope["type"] != "http":
        raise NotImplementedError("only HTTP is spoken here")
    while (await receive()).get("more_body"):
        continue
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})
