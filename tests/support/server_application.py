"""An ASGI application that answers with the event loop and the HTTP protocol that it runs on."""

import asyncio
import sys

from starlette.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request, and answer it; nothing is opened or closed."""
    if scope["type"] != "http":
        raise NotImplementedError("only HTTP is spoken here")
    while (await receive()).get("more_body"):
        continue
    loop = type(asyncio.get_running_loop())
    parser = "httptools" if "httptools" in sys.modules else "none"
    body = f"{loop.__module__}.{loop.__qualname__} {parser}".encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})
