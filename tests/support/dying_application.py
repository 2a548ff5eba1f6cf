"""The service, in a process that is gone (SIGKILL) just before it would answer a request with the header X-Die."""

import os
import signal

from starlette.types import Message, Receive, Scope, Send

from app.main import app as service


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve as the service does."""
    is_last = scope["type"] == "http" and any(name == b"x-die" for name, _ in scope["headers"])

    async def send_or_die(message: Message) -> None:
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        await send(message)

    await service(scope, receive, send_or_die)
