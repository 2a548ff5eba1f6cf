"""The dashboard: its page, and the stream of events that fills it and keeps it up to date.

Where ADMIN_API_KEY is set, both want it as the password of HTTP Basic (RFC 7617), with any user name.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from app.api.dependencies import ResourcesDep
from app.api.streaming import (
    EVENT_STREAM,
    EVENT_STREAM_HEADERS,
    FAREWELL_SECONDS,
    ping,
    push,
    send_text,
    until_disconnect,
)
from app.errors import DashboardLoginRequired
from app.services.statistics.dashboard import DashboardFeed, Viewer
from app.web.pages import page

# An event, not a comment: scripts do not see comments, and the page wants to know that the service is still there.
PING = "event: ping\ndata: {}\n\n"


async def require_key(request: Request, resources: ResourcesDep) -> None:
    """Refuse a request without the admin key as its password, where ADMIN_API_KEY is set.

    Raises:
        DashboardLoginRequired: no password, or another one.
    """
    expected = resources.settings.cache.admin_api_key.get_secret_value()
    if expected and not hmac.compare_digest(_password(request), expected.encode()):
        raise DashboardLoginRequired


def _password(request: Request) -> bytes:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


class DashboardStream(StreamingResponse):
    """Sends each part of the dashboard as an event of its name until the client leaves or the service does."""

    media_type = EVENT_STREAM

    def __init__(self, feed: DashboardFeed) -> None:
        super().__init__(iter(()), headers=EVENT_STREAM_HEADERS)
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch and send; an error before the answer becomes one in the one format."""
        with self._feed.watch() as viewer:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await push(viewer.ended, _send_parts(viewer, send), ping(send, PING), until_disconnect(receive))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


router = APIRouter(include_in_schema=False, dependencies=[Depends(require_key)])


@router.head("/dashboard")
@router.get("/dashboard")
async def dashboard(resources: ResourcesDep) -> HTMLResponse:
    """The page; the figures come as events."""
    settings = resources.settings
    return page("dashboard", {"timezone": settings.statistics.timezone.key, "currency": settings.spending.currency})


@router.get("/dashboard/events", response_class=DashboardStream)
async def dashboard_events(resources: ResourcesDep) -> DashboardStream:
    """The figures, and each change of them."""
    return DashboardStream(resources.dashboard)


async def _send_parts(viewer: Viewer, send: Send) -> None:
    while True:
        parts = await viewer.next()
        await send_text(send, "".join(f"event: {name}\ndata: {text}\n\n" for name, text in parts.items()))
