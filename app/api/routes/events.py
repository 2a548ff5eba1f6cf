"""The stream of one's own tasks as server-sent events, message for message what the WebSocket sends.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import contextlib
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.dependencies import CurrentSession, ResourcesDep
from app.api.errors import describe_errors, log_error
from app.api.streaming import (
    EVENT_STREAM,
    EVENT_STREAM_HEADERS,
    FAREWELL_SECONDS,
    hello,
    ping,
    push,
    send_text,
    until_disconnect,
)
from app.errors import (
    AppError,
    AuthenticationRequired,
    DatabaseUnavailable,
    InvalidToken,
    ServerBusy,
    TokenExpired,
    TooManyStreams,
)
from app.services.accounts.service import Session
from app.services.events.feed import TaskEvents
from app.services.events.listener import Listener

EXAMPLE = (
    'id: 41\ndata: {"event":"hello","last_id":41}\n\n'
    'id: 42\ndata: {"event":"task","id":42,"task_id":"…","status":"completed"}\n\n'
)

# As FastAPI describes the events of its own streams; the word is OpenAPI 3.2's.
EVENT_SCHEMA = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "data": {"type": "string", "contentMediaType": "application/json"}},
    "required": ["data"],
}

EventId = Annotated[int | None, Query(ge=0, lt=2**63, description="Begin after this event.")]
LastEventId = Annotated[
    int | None, Header(alias="Last-Event-ID", ge=0, lt=2**63, description="The same, as browsers send it; it wins.")
]

router = APIRouter(prefix="/images/inference", tags=["inference"])


class EventStream(StreamingResponse):
    """Sends events until the client leaves, the token ends or the service does."""

    media_type = EVENT_STREAM

    def __init__(self, task_events: TaskEvents, session: Session, since: int | None) -> None:
        super().__init__(iter(()), headers=EVENT_STREAM_HEADERS)
        self._task_events = task_events
        self._session = session
        self._since = since

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Listen, answer and send; an error before the answer becomes one in the one format."""
        async with self._task_events.listen(self._session, self._since) as listener:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await push(listener.ended, _send_events(listener, send), ping(send), until_disconnect(receive))
            except AppError as error:
                log_error(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.get(
    "/events",
    status_code=200,
    response_class=EventStream,
    responses=describe_errors(
        AuthenticationRequired, InvalidToken, TokenExpired, TooManyStreams, DatabaseUnavailable, ServerBusy
    )
    | {
        200: {
            "description": "Events, for as long as you listen",
            "content": {EVENT_STREAM: {"itemSchema": EVENT_SCHEMA, "example": EXAMPLE}},
        }
    },
)
async def watch_tasks(
    session: CurrentSession, resources: ResourcesDep, since: EventId = None, last_event_id: LastEventId = None
) -> EventStream:
    """Every change of your tasks as it happens, as server-sent events.

    Begins with `{"event": "hello", "last_id": n}`: everything after event `n` follows. The same stream is a WebSocket
    at `/ws/inference?token=TOKEN`.
    """
    return EventStream(resources.task_events, session, since if last_event_id is None else last_event_id)


async def _send_events(listener: Listener, send: Send) -> None:
    await send_text(send, f"id: {listener.since}\ndata: {hello(listener)}\n\n")
    async for event in listener.events():
        await send_text(send, f"id: {event.id}\ndata: {event.text}\n\n")
