"""The dashboard: its page, and the stream of events that fills it and keeps it up to date.

Where statistics are closed, `app/api/access.py` wants a key as the password of HTTP Basic, with any user name.
"""

import asyncio
import contextlib

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from app.api.access import policy_of
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
from app.services.statistics.dashboard import DashboardFeed, Viewer
from app.web.pages import page

# An event, not a comment: scripts do not see comments, and the page wants to know that the service is still there.
PING = "event: ping\ndata: {}\n\n"
# A process learns of a revoked key within two seconds (app/services/api_keys/service.py).
ACCESS_CHECK_SECONDS = 1.0


class DashboardStream(StreamingResponse):
    """Sends each part of the dashboard as an event of its name.

    It ends when the client leaves or the service does, and when the client would not be let in any more.
    """

    media_type = EVENT_STREAM

    def __init__(self, feed: DashboardFeed) -> None:
        super().__init__(iter(()), headers=EVENT_STREAM_HEADERS)
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch and send; an error before the answer becomes one in the one format."""
        with self._feed.watch() as viewer:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            work = _send_parts(viewer, send), ping(send, PING), until_disconnect(receive), _until_refused(scope)
            await push(viewer.ended, *work)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


router = APIRouter(include_in_schema=False)


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


async def _until_refused(scope: Scope) -> None:
    """Return when the key of a stream has expired or was revoked, or when it has none and one is needed by now."""
    policy = policy_of(scope)
    while policy.still_admits(scope):  # noqa: ASYNC110 - a key that expires notifies no task
        await asyncio.sleep(ACCESS_CHECK_SECONDS)


async def _send_parts(viewer: Viewer, send: Send) -> None:
    while True:
        parts = await viewer.next()
        await send_text(send, "".join(f"event: {name}\ndata: {text}\n\n" for name, text in parts.items()))
