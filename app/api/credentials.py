"""Who asks, where the request itself does not simply say it: pure ASGI middleware, before anything is answered.

A signed request stands for its API key: `state["signing_key"]`. Its body is checked against its Content-Digest while it
arrives, and a body that is another never reaches what would classify or store it. A device token says which device asks
for a classification: `state["device"]`. On a few paths the token of an account says which account: `state["account"]`.
"""

from collections.abc import AsyncIterator, Collection

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dependencies import address_of, resources_of
from app.api.errors import error_response, log_error
from app.api.middleware import read_ahead
from app.api.uploads import Part
from app.errors import AppError, PayloadTooLarge
from app.services.accounts.tokens import is_account_token
from app.services.device_tokens import is_device_token
from app.services.photos import UploadedPhoto
from app.services.signatures.digests import ContentDigest
from app.services.signatures.verification import INPUT_FIELD, SIGNATURE_FIELD, SignedRequest

_SIGNATURE_FIELDS = {INPUT_FIELD.encode(), SIGNATURE_FIELD.encode()}


class CredentialsMiddleware:
    """Checks signatures and device tokens.

    It is there twice: before the fast path, and inside CORS for what a web page asks, which has an `Origin` and may
    read no other answers.

    Args:
        inside_cors: this is the second.
        signed_paths: beginning of the paths on which a signature counts. Elsewhere it may be that of a gateway or of a
            robot, which is no business of ours.
        device_paths: beginnings of the paths on which a device token counts.
        account_paths: beginning of the paths on which the token of an account counts, where an API key does.
        upload_paths: their bodies go on as they arrive, and what reads them has to end with their last byte; others
            are complete before the request goes on.
        max_bytes: of such another body.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        inside_cors: bool,
        signed_paths: str,
        device_paths: tuple[str, ...],
        account_paths: str,
        upload_paths: Collection[str],
        max_bytes: int,
    ) -> None:
        self._app = app
        self._inside_cors = inside_cors
        self._signed_paths = signed_paths
        self._device_paths = device_paths
        self._account_paths = account_paths
        self._upload_paths = frozenset(upload_paths)
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._signed_paths):
            try:
                receive = await self._checked(scope, receive)
            except AppError as error:
                log_error(error)
                await error_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        # One pass, since every request takes it.
        token, is_signed, has_origin = None, False, False
        for name, value in scope["headers"]:
            if name == b"authorization":
                token = value
            elif name in _SIGNATURE_FIELDS:
                is_signed = True
            elif name == b"origin":
                has_origin = True
        if has_origin is not self._inside_cors:
            return receive
        if token is not None and scope["path"].startswith(self._device_paths):
            await self._recognise(scope, token.decode("latin-1"))
        return await self._verified(scope, receive) if is_signed else receive

    async def _recognise(self, scope: Scope, authorization: str) -> None:
        kind, _, token = authorization.partition(" ")
        if kind.lower() == "bearer" and is_device_token(token):
            scope["state"]["device"] = await resources_of(scope).device_tokens.device_of(token, address_of(scope))
        elif kind.lower() == "bearer" and scope["path"].startswith(self._account_paths) and is_account_token(token):
            scope["state"]["account"] = (await resources_of(scope).accounts.session_of(token)).account

    async def _verified(self, scope: Scope, receive: Receive) -> Receive:
        """Check the signature; return a `receive` that fails where the body is not the signed one."""
        request = signed_request(scope)
        state = scope["state"]
        resources = resources_of(scope)
        key, digest = await resources.signatures.verify(
            request, request_id=state["request_id"], address=address_of(scope)
        )
        state["signing_key"] = key
        if digest is None:
            return receive
        state["content_digest"] = digest
        if not request.has_body:
            digest.check()
            return receive
        checked = _checked(receive, digest)
        if scope["path"] in self._upload_paths:
            return checked
        return await read_ahead(checked, self._max_bytes)


def signed_request(scope: Scope) -> SignedRequest:
    """Return what a signature is about: method, address and header fields as the client has sent them.

    The authority is the field Host and the path is the raw one, as they have arrived: a proxy has to pass both on
    unchanged. The scheme is that of the connection, or what a trusted proxy says of its own (X-Forwarded-Proto).
    """
    headers = Headers(scope=scope)
    query = scope["query_string"].decode("latin-1")
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    url = f"{scope['scheme']}://{headers.get('host', '')}{path}" + (f"?{query}" if query else "")
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    return SignedRequest(scope["method"], url, headers, has_body)


async def held_until_checked(request: Request, parts: AsyncIterator[Part], *, max_bytes: int) -> AsyncIterator[Part]:
    """Yield the parts of a form; of a signed one not before the whole of it has arrived and is the signed one.

    Args:
        request: whose form it is.
        parts: as they arrive.
        max_bytes: how many bytes of a signed form may be held at once.

    Raises:
        PayloadTooLarge: it has more.
        DigestMismatch: it is not the signed one.
    """
    if "content_digest" not in request.scope["state"]:
        async for part in parts:
            yield part
        return
    held: list[Part] = []
    size = 0
    async for part in parts:
        size += len(part.data) if isinstance(part, UploadedPhoto) else 0
        if size > max_bytes:
            megabytes = max_bytes / (1024 * 1024)
            raise PayloadTooLarge(
                "A signed form may have {megabytes:g} MB: nothing of it is used before its end.",
                values={"megabytes": megabytes},
            )
        held.append(part)
    for part in held:
        yield part


def _checked(receive: Receive, digest: ContentDigest) -> Receive:
    async def checked() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            digest.update(message.get("body", b""))
            if not message.get("more_body", False):
                digest.check()
        return message

    return checked
