"""What uvicorn alone costs: a bare ASGI application that says one and the same 260 bytes; an upload's body is read."""

import json

from starlette.types import Receive, Scope, Send

ANSWER_BYTES = 260

_ANSWER = json.dumps(
    {
        "success": True,
        "cached": True,
        "data": {"category": "foods", "confidence": 0.92, "description": "一盘精美的意大利面，色香味俱全"},
        "from_cache": True,
        "request_id": "req_1760097600_0b1c2d3e4f5a",
        "timestamp": "2025-10-10T12:00:00Z",
    },
    ensure_ascii=False,
    separators=(",", ":"),
).encode()
# JSON may end in blanks.
_BODY = _ANSWER.ljust(ANSWER_BYTES)
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]
_START = {"type": "http.response.start", "status": 200, "headers": _HEADERS}
_END = {"type": "http.response.body", "body": _BODY}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request and give the one answer."""
    if scope["type"] != "http":
        raise NotImplementedError("only HTTP is spoken here")
    while (await receive()).get("more_body"):
        continue
    await send(_START)
    await send(_END)
