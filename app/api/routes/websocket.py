"""The stream of one's own tasks as a WebSocket. It is accepted before the token is checked: a browser hears of a close
code only then. The client's messages after the token are read, since that tells that it is there, and ignored.
"""

import asyncio
import contextlib
import json

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from app.api.dependencies import resources_of
from app.api.errors import log_error
from app.api.streaming import FAREWELL_SECONDS, hello, push
from app.errors import AppError, AuthenticationRequired, InvalidRequest, TooManyStreams
from app.services.accounts.tokens import TOKEN_MAX_CHARACTERS
from app.services.events.listener import Ending, Listener
from app.services.request_log.record import user_id_of_account

PATH = "/ws/inference"
# The client may name it in the handshake, with its token as the next one: browsers can set no other header.
SUBPROTOCOL = "bearer"
FIRST_MESSAGE_SECONDS = 10.0
# A token in a JSON object.
FIRST_MESSAGE_MAX_CHARACTERS = TOKEN_MAX_CHARACTERS + 100
# Of a BIGINT, which the ids are; more digits are no number of ours.
ID_MAX_DIGITS = 19

INVALID_REQUEST = 4400
NOT_AUTHENTICATED = 4401
TOO_MANY = 4429
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
CLOSE_CODES = {
    Ending.TOKEN_EXPIRED: NOT_AUTHENTICATED,
    Ending.TOKEN_INVALID: NOT_AUTHENTICATED,
    Ending.TOO_SLOW: TRY_AGAIN_LATER,
    Ending.SERVICE_ENDS: SERVICE_RESTART,
}

# A RuntimeError is the server's word for having closed the connection itself, such as for want of a pong.
_GONE = (WebSocketDisconnect, RuntimeError)

router = APIRouter()


async def watch_tasks(websocket: WebSocket) -> None:
    """Push each change of the caller's tasks; `?since=ID` begins after that event."""
    asked_for = websocket.scope["subprotocols"]
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in asked_for else None)
    resources = resources_of(websocket.scope)
    try:
        since = _since(websocket.query_params.get("since"))
        token = websocket.query_params.get("token")
        if token is None and asked_for[:1] == [SUBPROTOCOL] and len(asked_for) > 1:
            token = asked_for[1]
        if token is None:
            token = await _read_token(websocket)
        session = await resources.accounts.session_of(token)
        # For the access log.
        websocket.state.user = user_id_of_account(session.account.id)
        async with resources.task_events.listen(session, since) as listener:
            ending = await push(listener.ended, _send(websocket, listener), _receive(websocket))
        if ending is not None:
            await _close(websocket, CLOSE_CODES[ending], ending.value)
    except AuthenticationRequired as error:
        await _close(websocket, NOT_AUTHENTICATED, error.code)
    except InvalidRequest as error:
        await _close(websocket, INVALID_REQUEST, error.code)
    except TooManyStreams as error:
        log_error(error)
        await _close(websocket, TOO_MANY, error.code)
    except AppError as error:
        log_error(error)
        await _close(websocket, TRY_AGAIN_LATER, error.code)
    except WebSocketDisconnect:
        return


# Starlette's own route: FastAPI's would keep what it solves dependencies with for as long as the socket is open.
router.add_websocket_route(PATH, watch_tasks)


def _since(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= ID_MAX_DIGITS):
        raise InvalidRequest
    return int(text)


async def _read_token(websocket: WebSocket) -> str:
    """Return the token of the first message: `{"token": "..."}` or nothing else but the token.

    Raises:
        AuthenticationRequired: it does not come in time, or is not a token at all.
        WebSocketDisconnect: the client left.
    """
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            message = await websocket.receive()
    except TimeoutError:
        raise AuthenticationRequired from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    text = message.get("text") or ""
    if not text or len(text) > FIRST_MESSAGE_MAX_CHARACTERS:
        raise AuthenticationRequired
    if text.lstrip().startswith("{"):
        try:
            text = json.loads(text).get("token")
        except (ValueError, RecursionError):
            raise AuthenticationRequired from None
        if not isinstance(text, str):
            raise AuthenticationRequired
    return text.strip()


async def _send(websocket: WebSocket, listener: Listener) -> None:
    with contextlib.suppress(*_GONE):
        await websocket.send_text(hello(listener))
        async for event in listener.events():
            await websocket.send_text(event.text)


async def _receive(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        continue


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(TimeoutError, *_GONE):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await websocket.close(code, reason)
