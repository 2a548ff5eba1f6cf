"""The short way for the busiest question: a well-formed `check-cache` of an ordinary client.

It answers what the route in `classify.py` answers, with the same schemas and the same service, and spares the
framework's routing and dependency solving, which cost more than the answer. Whatever is not exactly that (a browser's
`Origin`, a body in pieces, a value that is refused) goes on to the route, which reads the same bytes; so every refusal
has one home.
"""

from collections.abc import Mapping

from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.classify import cache_hit
from app.api.dependencies import caller_of, resources_of
from app.api.errors import error_response, log_error
from app.errors import AppError, InvalidRequest
from app.schemas.classify import CacheMiss, CheckCacheRequest

_JSON = b"application/json"
_MISS = CacheMiss().model_dump_json().encode()


class CheckCacheShortcut:
    """Answers `POST path` itself where it can; `path` is that of the check-cache route."""

    def __init__(self, app: ASGIApp, *, path: str, max_bytes: int) -> None:
        self._app = app
        self._path = path
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = _plain_headers(scope)
        if headers is None:
            await self._app(scope, receive, send)
            return
        message = await receive()
        question = self._question(message)
        try:
            caller = None if question is None else caller_of(scope, headers.get(b"x-user-id"))
        except InvalidRequest:
            caller = None
        if question is None or caller is None:
            await self._app(scope, _replaying(message, receive), send)
            return
        try:
            answer = await resources_of(scope).classifier.look_up(question.image_hash, caller.or_user(question.user_id))
        except AppError as error:
            log_error(error)
            await error_response(error, caller.request_id)(scope, receive, send)
            return
        await _send_json(_MISS if answer is None else cache_hit(answer).model_dump_json().encode(), send)

    def _question(self, message: Message) -> CheckCacheRequest | None:
        if message["type"] != "http.request" or message.get("more_body", False):
            return None
        body: bytes = message.get("body", b"")
        if len(body) > self._max_bytes:
            return None
        try:
            return CheckCacheRequest.model_validate_json(body)
        except ValidationError:
            return None


def _plain_headers(scope: Scope) -> Mapping[bytes, bytes] | None:
    """The headers, or None where one is there twice, a browser wants its CORS answer, or the body is not JSON."""
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(pairs)
    content_type = headers.get(b"content-type", b"")
    if len(headers) != len(pairs) or b"origin" in headers or content_type.partition(b";")[0] != _JSON:
        return None
    return headers


def _replaying(message: Message, receive: Receive) -> Receive:
    """A `receive` that gives `message` once more before it goes on."""
    first: Message | None = message

    async def replayed() -> Message:
        nonlocal first
        if first is None:
            return await receive()
        again, first = first, None
        return again

    return replayed


async def _send_json(body: bytes, send: Send) -> None:
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", _JSON)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
