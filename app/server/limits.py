"""What a client may cost before its request is complete: size of the head, silence, and the pace of the body.

uvicorn bounds neither: a connection that says nothing stays open, and header lines are kept in memory as long as they
come. A proxy in front has limits of its own; these hold without one, too.
"""

from collections.abc import Iterable
from typing import Any

from loguru import logger
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.clock import utc_now
from app.errors import AppError, HeadersTooLarge, InvalidRequest, RequestTimeout
from app.language.accept import asked_language
from app.language.messages import message_of
from app.observability.request_id import new_request_id
from app.schemas.common import ErrorBody, ErrorResponse

# Request line and header lines together; nginx takes 32 KB, and the largest cookies and tokens are far below.
MAX_HEAD_BYTES = 64 * 1024
MAX_HEAD_LINES = 100
# Name and value of a header line are followed by these: ": " and the end of the line.
LINE_OVERHEAD_BYTES = 4
# For a head as a whole, and between two pieces of a body. nginx.conf says the same.
SILENCE_SECONDS = 15.0
# A timer that is so late says that this process stood still, and not its clients.
STOOD_STILL_SECONDS = 1.0
# From then on the pace of a body counts: before, a phone may be on its way out of a tunnel.
RATE_AFTER_SECONDS = 10.0
# Under this key of its lifespan's state the application says at which pace bodies must arrive; 0, or none: at any.
MIN_BYTES_PER_SECOND = "min_body_bytes_per_second"
# To close at once would reset a connection on which the client is still sending, and take the answer away from it.
LINGER_SECONDS = 1.0
LINGER_BYTES = 1024 * 1024
# Under this key of an ASGI scope's state: the status that the server has answered in the application's stead.
ANSWERED_FOR = "answered_by_server"


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on httptools, with bounds on requests; `check_progress` is called regularly by the server."""

    _is_in_message = False
    """The first byte of a request is here, its last one not yet."""
    _head_bytes = 0
    _head_lines = 0
    _unparsed_bytes = 0
    """What has come since the parser has last told of something complete: a piece of a line, or of what it skips."""
    _head_since: float | None = None
    _heard_at = 0.0
    _checked_at = 0.0
    _body_bytes = 0
    _body_since = 0.0
    """When the body has begun, moved on by the time in which we have not read."""
    _is_refused = False

    @property
    def _is_head_too_large(self) -> bool:
        return self._head_bytes > MAX_HEAD_BYTES or self._head_lines > MAX_HEAD_LINES

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Expect a head from now on."""
        super().connection_made(transport)
        self._head_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse a line that does not end."""
        if self._is_refused:
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > LINGER_BYTES:
                self.transport.close()
            return
        self._heard_at = self.loop.time()
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES and (self._is_in_message or not self._is_answering):
            self.refuse(HeadersTooLarge())

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        self._is_in_message = True
        self._head_bytes = self._head_lines = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request line; what is raised here ends the parsing."""
        self._head_bytes += len(url)
        self._unparsed_bytes = 0
        if self._is_head_too_large:
            raise HeadersTooLarge
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header line, or a trailer after a body; what is raised here ends the parsing."""
        self._head_lines += 1
        self._head_bytes += len(name) + len(value) + LINE_OVERHEAD_BYTES
        self._unparsed_bytes = 0
        if self._is_head_too_large:
            raise HeadersTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start to answer a request."""
        self._head_since = None
        self._unparsed_bytes = self._body_bytes = 0
        self._body_since = self._checked_at = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._unparsed_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See the end of a request."""
        self._is_in_message = False
        self._unparsed_bytes = 0
        self._head_since = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or has too long a head, in the one format of errors."""
        self.refuse(HeadersTooLarge() if self._is_head_too_large else InvalidRequest(msg))

    def forgive(self, seconds: float) -> None:
        """Do not count a time in which this process stood still: what has arrived meanwhile is still to be read."""
        self._heard_at += seconds
        self._body_since += seconds
        if self._head_since is not None:
            self._head_since += seconds

    def check_progress(self, now: float) -> None:
        """End the connection if its client does not go on with a request, or too slowly; `now` is the loop's time.

        A client is not waited for while we are not reading: the application may be waiting for memory.
        """
        cycle = self.cycle
        if self._is_refused:
            return
        if not self._is_answering:
            if self._head_since is None and (self._is_in_message or self._unparsed_bytes):
                self._head_since = now
            if self._head_since is not None and now - self._head_since > SILENCE_SECONDS:
                if self._is_in_message:
                    self.refuse(RequestTimeout())
                else:
                    self.transport.close()
        elif cycle.more_body:
            if self.flow.read_paused or cycle.waiting_for_100_continue:
                self._heard_at = now
                self._body_since += now - self._checked_at
            elif now - self._heard_at > SILENCE_SECONDS or self._is_too_slow(now):
                self.refuse(RequestTimeout())
            self._checked_at = now

    def _is_too_slow(self, now: float) -> bool:
        seconds = now - self._body_since - RATE_AFTER_SECONDS
        return seconds > 0 and self._body_bytes < seconds * self.app_state.get(MIN_BYTES_PER_SECOND, 0)

    def refuse(self, error: AppError) -> None:
        """Answer `error`, unless an answer has begun, and close the connection."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        state: dict[str, Any] = {}
        # Those that have arrived; None before a connection's first request.
        headers: Iterable[tuple[bytes, bytes]] = self.headers or ()
        has_begun = False
        if self._is_answering:
            # For the application, the client is gone.
            state = self.cycle.scope["state"]
            headers = self.cycle.scope["headers"]
            has_begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if has_begun:
            self.transport.close()
            return
        request_id = state.get("request_id") or new_request_id()
        if state:
            state[ANSWERED_FOR] = error.status
        else:
            client = None if self.client is None else self.client[0]
            logger.info("{} {} from {} before its head was complete", error.status, error.code, client)
        self.transport.write(_answer(error, request_id, headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()


def _answer(error: AppError, request_id: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    body = ErrorResponse(
        error=ErrorBody(code=error.code, message=message_of(error, asked_language(headers)), details=error.details),
        request_id=request_id,
        timestamp=utc_now(),
    )
    content = body.model_dump_json().encode()
    head = (
        f"x-request-id: {request_id}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
        "connection: close\r\n\r\n"
    )
    return STATUS_LINE[error.status] + head.encode() + content
