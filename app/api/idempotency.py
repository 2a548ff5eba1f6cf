"""The header Idempotency-Key: a repeat gets the answer that the first request got, byte for byte.

After the IETF's draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header) and Stripe's
API (https://docs.stripe.com/api/idempotent_requests). docs/api.md tells clients about it.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from app.api.dependencies import resources_of
from app.api.middleware import route_of
from app.errors import IdempotencyKeyInUse, IdempotencyKeyReused, InvalidIdempotencyKey
from app.language.accept import Language
from app.runtime.client_key import client_key
from app.services.accounts.rows import Account
from app.services.api_keys.key import ApiKey
from app.services.device_tokens import Device
from app.services.idempotency.key import IdempotencyKey, Keep, KeptAnswer, digest_of
from app.services.request_log.record import Caller, user_id_of_account

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)

KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
# What Stripe takes. The draft's form of the value, a string in quotes, is one of them.
_KEY = re.compile("[!-~]{1,255}")


class Owner(NamedTuple):
    """To whom a key belongs: no other caller gets the answer. `user_id` is the name by which it is forgotten."""

    scope: tuple[str, ...]
    user_id: str | None


async def get_idempotency_key(
    request: Request,
    # For the documentation: this is one of the lines, if there are several.
    idempotency_key: Annotated[
        str | None,
        Header(
            alias=KEY_HEADER,
            description="Makes a repeat safe: of requests with the same key only the first counts, and for 24 hours the"
            " others get its answer. 1 to 255 visible ASCII characters, such as a new UUID for each photo.",
        ),
    ] = None,
) -> str | None:
    """The key of a request, None where it has none.

    Raises:
        InvalidIdempotencyKey: the header holds something else, or is there twice.
    """
    if idempotency_key is None:
        return None
    [key, *others] = request.headers.getlist(KEY_HEADER)
    if others or not _KEY.fullmatch(key):
        raise InvalidIdempotencyKey
    return key


IdempotencyKeyDep = Annotated[str | None, Depends(get_idempotency_key)]


# What a route that takes the header may answer.
IDEMPOTENCY_ERRORS = (InvalidIdempotencyKey, IdempotencyKeyReused, IdempotencyKeyInUse)
# For the `responses` of such a route, at the status of success.
REPLAY_HEADERS: dict[str, Any] = {
    "headers": {
        REPLAYED_HEADER: {
            "description": "`true` on an answer that an earlier request with the same key has had",
            "schema": {"type": "string", "enum": ["true"]},
        }
    }
}


def owner_of(request: Request, caller: Caller) -> Owner:
    """Whose key that of a request is: its device token's, else its API key's and user's, else its user's or address's.

    The address does not count where a user is named: a phone changes its network just when answers are lost.
    """
    state = request.scope["state"]
    device: Device | None = state.get("device")
    key: ApiKey | None = (
        state.get("api_key") or state.get("signing_key") or (device.key if device is not None else None)
    )
    of_key = "" if key is None else str(key.id)
    user_id = caller.user_id
    if device is not None:
        return Owner(("device", of_key, device.id), user_id)
    if key is not None:
        return Owner(("key", of_key, user_id or ""), user_id)
    if user_id is not None:
        return Owner(("user", user_id), user_id)
    return Owner(("address", client_key(caller.ip_address)), None)


def owner_of_account(account: Account) -> Owner:
    """Whose key that of a request with an account's token is."""
    user_id = user_id_of_account(account.id)
    return Owner(("account", user_id), user_id)


def fingerprint_of(request: Request, language: Language | None, *parts: str) -> list[str]:
    """Return what tells a request from others with its key: `parts`, and where it has a say in it, the language.

    Where the service has one language, no request differs in it, and keys that it knew before it had any still count.
    """
    is_fixed = resources_of(request.scope).settings.model.fixed_language is not None
    return [*parts, *([] if is_fixed or language is None else [language])]


async def answer_once(
    request: Request,
    key: str | None,
    owner: Owner,
    act: Callable[[Keep[T] | None], Awaitable[T]],
    body_of: Callable[[T], Body],
    *,
    fingerprint: Sequence[str],
    image_hashes: Sequence[str] = (),
    image_id_of: Callable[[T], int | None] = lambda _: None,
    looks_first: bool = True,
    status: int = 200,
) -> Body | Response:
    """Return the body of an answer; for a request with a key an answer as it was sent, or is sent, the first time.

    Args:
        request: that is answered.
        key: of it.
        owner: of the key.
        act: does what was asked for. Given a `Keep`, it inserts the row in the transaction that makes it count.
        body_of: the answer to a result.
        fingerprint: tells this request from another with the same key.
        image_hashes: photos of the shared cache that the answer is about.
        image_id_of: the picture of a library that a result is about.
        looks_first: look for an answer first; False where what `act` does is no more than that.
        status: of the answer.

    Raises:
        AppError: what `act` raises, and IdempotencyKeyReused, IdempotencyKeyInUse.
    """
    if key is None:
        return body_of(await act(None))
    state = request.scope["state"]
    hashed = IdempotencyKey(
        key_hash=digest_of(request.method, route_of(request.scope), *owner.scope, key),
        fingerprint=digest_of(*fingerprint),
        request_id=state["request_id"],
        user_id=owner.user_id,
        image_hashes=image_hashes,
    )

    def keep(result: T) -> KeptAnswer:
        return hashed.keep(body_of(result).model_dump_json(), image_id=image_id_of(result))

    async def answer() -> str:
        return body_of(await act(keep)).model_dump_json()

    first = await resources_of(request.scope).idempotency.answer_once(hashed, answer, looks_first=looks_first)
    headers = {}
    if first.is_replay:
        headers[REPLAYED_HEADER] = "true"
        # It is not counted as a hit, whatever this request has found before the other one was faster.
        state.pop("cached", None)
    return Response(first.body, status_code=status, headers=headers, media_type="application/json")
