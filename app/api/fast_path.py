"""The fast path of the two busiest requests: a plain `check-cache`, and a plain upload of one photo.

They get what the routes in `classify.py` answer, by the same schemas and functions, without the framework's routing,
dependency solving and response validation, which cost more than the answer. Whatever is not plain (a browser's
`Origin`, a repeated header, a question in pieces or one that is refused) goes on to the route, which reads the same
bytes.
"""

from collections.abc import Awaitable

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access import AccessPolicy, Area
from app.api.dependencies import caller_of, resources_of
from app.api.errors import error_response, log_error
from app.api.idempotency import KEY_HEADER
from app.api.routes.classify import cache_hit, classify_upload
from app.errors import AppError, InvalidRequest
from app.observability import tracing
from app.schemas.classify import CacheMiss, CheckCacheRequest
from app.services.request_log.record import Caller

_JSON = b"application/json"
_FORM = b"multipart/form-data"
_NOT_PLAIN = frozenset({b"origin", KEY_HEADER.lower().encode()})
_MISS = CacheMiss()


class FastPath:
    """Answers `POST check_path` and `POST upload_path` itself where it can.

    Args:
        policy: says who may ask.
        check_path: of the question.
        upload_path: of the upload.
        max_bytes: of a question's JSON.
    """

    def __init__(
        self, app: ASGIApp, *, policy: AccessPolicy, check_path: str, upload_path: str, max_bytes: int
    ) -> None:
        self._app = app
        self._policy = policy
        self._check_path = check_path
        self._upload_path = upload_path
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else None
        kind = _JSON if path == self._check_path else _FORM if path == self._upload_path else None
        if path is None or kind is None or (headers := _plain_headers(scope, kind)) is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._policy.admit(scope, Area.CLASSIFICATION)
        except AppError as error:
            _note_route(scope, path)
            log_error(error)
            await error_response(error, scope)(scope, receive, send)
            return
        caller = _caller(scope, headers)
        if kind is _JSON and caller is not None:
            message = await receive()
            question = self._question(message)
            if question is not None:
                _note_route(scope, path)
                await _answer(_check(scope, question, caller), caller, scope, receive, send)
                return
            receive = _replaying(message, receive)
        elif caller is not None:
            _note_route(scope, path)
            upload = _classify(Request(scope, receive), caller)
            await _answer(upload, caller, scope, receive, send)
            return
        await self._app(scope, receive, send)

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


async def _check(scope: Scope, question: CheckCacheRequest, caller: Caller) -> BaseModel:
    caller = caller.or_user(question.user_id)
    scope["state"]["user"] = caller.user_id
    answer = await resources_of(scope).classifier.look_up(
        question.image_hash, caller, perceptual_hash=question.perceptual_hash
    )
    scope["state"]["cached"] = answer is not None
    return _MISS if answer is None else cache_hit(answer)


async def _classify(request: Request, caller: Caller) -> BaseModel:
    answer = await classify_upload(request, caller, resources_of(request.scope), None)
    assert isinstance(answer, BaseModel)  # noqa: S101 - without a key
    return answer


async def _answer(answer: Awaitable[BaseModel], caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        body = (await answer).model_dump_json().encode()
    except AppError as error:
        log_error(error)
        await error_response(error, scope)(scope, receive, send)
        return
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", _JSON)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _note_route(scope: Scope, route: str) -> None:
    """Tell the middleware and the trace what the router would."""
    scope["state"]["route"] = route
    tracing.name_request(scope["method"], route)


def _plain_headers(scope: Scope, content_type: bytes) -> dict[bytes, bytes] | None:
    """The headers; None where the request is not plain.

    It is not where a header is there twice, a browser wants its CORS answer, the answer is to be kept for repeats, the
    type differs, or there is a query, which the route does not know.
    """
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(pairs)
    is_plain = len(headers) == len(pairs) and _NOT_PLAIN.isdisjoint(headers) and not scope["query_string"]
    return headers if is_plain and headers.get(b"content-type", b"").partition(b";")[0] == content_type else None


def _caller(scope: Scope, headers: dict[bytes, bytes]) -> Caller | None:
    """The caller; None where a header says what cannot be a user id."""
    try:
        return caller_of(scope, headers.get(b"x-user-id"))
    except InvalidRequest:
        return None


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
