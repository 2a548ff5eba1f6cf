"""Pure ASGI middleware: every request gets its id, its log line, an answer even when we fail, and a bounded body."""

import time
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from loguru import logger
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dependencies import client_address
from app.api.errors import error_response
from app.api.response_headers import secured
from app.api.routes.metrics import METRICS_PATH
from app.errors import AppError, PayloadTooLarge
from app.observability import metrics, tracing
from app.observability.access_log import AccessLog
from app.observability.request_id import new_request_id
from app.server.limits import ANSWERED_FOR
from app.server.waiting_line import ARRIVED_AT
from app.services.request_log.error_counts import count_error

REQUEST_ID_HEADER = "X-Request-ID"
_REQUEST_ID_HEADER = REQUEST_ID_HEADER.lower().encode()
# nginx's code for "the client hung up before the answer"; it is only logged, since no client receives it.
CLIENT_CLOSED_REQUEST = 499
# https://www.rfc-editor.org/rfc/rfc6455#section-7.4; ours of 4400 to 4499 mean what the HTTP status would.
NORMAL_CLOSURE = 1000
INTERNAL_ERROR_CLOSURE = 1011
# The end, a client that goes away, a service that restarts.
GOOD_CLOSURES = frozenset({NORMAL_CLOSURE, 1001, 1012})
CLIENT_ERROR_CLOSURES = range(4400, 4500)
LOGGED_PATH_MAX_LENGTH = 200
# Of what has no route: unknown addresses, the files of pages, redirects, preflights.
OTHER_ROUTE = "other"


class RequestContextMiddleware:
    """Gives each request `state.request_id` and `state.started_at` (`time.perf_counter()`), and logs its outcome."""

    def __init__(self, app: ASGIApp, *, access_log: AccessLog) -> None:
        self._app = app
        self._log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            finally:
                self._log.flush()
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        started_at = state.get(ARRIVED_AT) or time.perf_counter()
        request_id = new_request_id()
        state.update(request_id=request_id, started_at=started_at)
        status = CLIENT_CLOSED_REQUEST

        async def send_with_id(message: Message) -> None:
            nonlocal status
            kind = message["type"]
            if kind in {"http.response.start", "websocket.accept"}:
                status = message.get("status", HTTPStatus.SWITCHING_PROTOCOLS)
                headers = [*message.get("headers", ()), (_REQUEST_ID_HEADER, request_id.encode())]
                message["headers"] = secured(headers, scope, status) if kind == "http.response.start" else headers
            elif kind == "websocket.close":
                if status == CLIENT_CLOSED_REQUEST:
                    # What the server makes of it when nothing was accepted.
                    status = HTTPStatus.FORBIDDEN
                else:
                    scope["state"]["close_code"] = message.get("code", NORMAL_CLOSURE)
            await send(message)

        tracing.describe(request_id=request_id)
        with logger.contextualize(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                # Any error closes a socket so; the server logs it.
                if scope["type"] == "websocket":
                    scope["state"]["close_code"] = INTERNAL_ERROR_CLOSURE
                raise
            finally:
                self._note(scope, status, time.perf_counter() - started_at)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """Log the request, and count it, unless it asked for the figures or is a socket, which has a gauge."""
        state: dict[str, Any] = scope["state"]
        method: str = scope.get("method", "GET")
        path: str = scope["path"]
        status = state.get(ANSWERED_FOR, status)
        outcome = outcome_of(status, state)
        if path != METRICS_PATH and scope["type"] == "http":
            metrics.count_request(method, route_of(scope), status, outcome, seconds)
        client = scope["client"]
        self._log.write(
            state["request_id"],
            method=method,
            # The path alone, since a query may hold what does not belong into a log; quoted, since it may hold line
            # ends. What the fast path knows needs no quotes.
            path=path if "route" in state else quote(path)[:LOGGED_PATH_MAX_LENGTH],
            status=status,
            outcome=outcome,
            seconds=seconds,
            client=None if client is None else client_address(client[0]),
            user=state.get("user"),
        )


def route_of(scope: Scope) -> str:
    """The template of the route that has answered, such as `/api/v1/requests/{request_id}`."""
    route: str | None = scope["state"].get("route")
    if route is not None:
        return route
    # Where routers are included, FastAPI has the whole path here, and only that of the router in scope["route"].
    context = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return getattr(context, "path_format", OTHER_ROUTE)


def outcome_of(status: int, state: Mapping[str, Any]) -> str:
    """What became of a request: hit, miss, ok, client_error or server_error; gone where the client had hung up.

    `state["cached"]` is there where the cache was asked, and says whether it knew; `state["close_code"]` where a socket
    was accepted and then closed by us.
    """
    close_code = state.get("close_code")
    if close_code is not None and close_code not in GOOD_CLOSURES:
        return "client_error" if close_code in CLIENT_ERROR_CLOSURES else "server_error"
    if status < HTTPStatus.BAD_REQUEST:
        cached = state.get("cached")
        return "ok" if cached is None else "hit" if cached else "miss"
    if status == CLIENT_CLOSED_REQUEST:
        return "gone"
    return "client_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


class UnexpectedErrorMiddleware:
    """The last resort: the log gets the traceback, the caller an answer in the one format (with CORS headers)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def note_answer(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, note_answer)
        except ClientDisconnect:
            logger.debug("the client hung up")
        except Exception:
            # Of a bug, whichever it is: a client gets an answer.
            if scope["type"] != "http":
                raise
            logger.exception("unexpected error")
            count_error(AppError.code)
            if not answered:
                await error_response(AppError(), scope)(scope, receive, send)


class StartupErrorMiddleware:
    """Tells the server in one sentence why the service does not start, where a traceback would bury the reason."""

    def __init__(self, app: ASGIApp, *, expected: tuple[type[Exception], ...]) -> None:
        self._app = app
        self._expected = expected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failure: Message | None = None

        async def hold_failure(message: Message) -> None:
            nonlocal failure
            if message["type"] == "lifespan.startup.failed":
                failure = message
            else:
                await send(message)

        try:
            await self._app(scope, receive, hold_failure)
        except self._expected as error:
            await send({"type": "lifespan.startup.failed", "message": f"cannot start: {error}"})
        except BaseException:
            if failure is not None:
                await send(failure)
            raise


class BodyLimitMiddleware:
    """Refuses bodies over `max_bytes`, except on `upload_paths`, which count what they read themselves."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, upload_paths: Collection[str]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._upload_paths = frozenset(upload_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._upload_paths:
            headers = Headers(scope=scope)
            length = headers.get("content-length")
            try:
                if length is not None and int(length) > self._max_bytes:
                    # A length within the limit is enforced by the HTTP server.
                    raise PayloadTooLarge
                if "transfer-encoding" in headers:
                    receive = await read_ahead(receive, self._max_bytes)
            except PayloadTooLarge as error:
                await error_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def read_ahead(receive: Receive, max_bytes: int) -> Receive:
    """Read a whole body and return a `receive` that replays it.

    Raises:
        PayloadTooLarge: it has more than `max_bytes`.
    """
    messages: list[Message] = []
    size = 0
    while not messages or messages[-1].get("more_body", False):
        message = await receive()
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise PayloadTooLarge
        messages.append(message)
    replay = iter(messages)

    async def replayed() -> Message:
        return next(replay, None) or await receive()

    return replayed
