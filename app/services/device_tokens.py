"""Device tokens: what an app's own server asks for, so that no key is in the app. JSON Web Tokens, HS256 only.

They have a type and an audience of their own: none stands for the token of an account, and none of those for one.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from app.clock import utc_now
from app.errors import InvalidToken, TokenExpired
from app.services.accounts.tokens import ALGORITHM, TOKEN_MAX_CHARACTERS
from app.services.api_keys.key import ApiKey
from app.services.signatures.keys import KeyStore

TYPE = "device+jwt"
AUDIENCE = "image-classifier:device"
SCOPE = "classify"
# Of the columns that keep a user id.
DEVICE_ID_MAX_CHARACTERS = 64
_REQUIRED = ["aud", "sub", "exp", "iat", "jti", "scope"]


@dataclass(frozen=True, slots=True)
class Device:
    """What a valid token says: who may classify, how many new photos a day, and which API key answers for it."""

    id: str
    new_photos_per_day: int | None
    key: ApiKey | None


@dataclass(frozen=True, slots=True)
class DeviceToken:
    """`text` is what the device sends; it counts until `expires_at`, or until the key that it was issued with ends."""

    text: str = field(repr=False)
    expires_at: datetime


class DeviceTokenService:
    """Issues and reads device tokens.

    Args:
        secret_keys: key id (`kid`) -> key; the first signs, all are believed.
        api_keys: a token counts no longer than the API key that it was issued with.
    """

    def __init__(self, secret_keys: Mapping[str, str], api_keys: KeyStore) -> None:
        self._secret_keys = dict(secret_keys)
        self._api_keys = api_keys

    def issue(
        self, device_id: str, *, new_photos_per_day: int | None, lifetime: timedelta, api_key_id: int | None
    ) -> DeviceToken:
        """Return a token for one device; `api_key_id` is the key that asks for it, None for `ADMIN_API_KEY`."""
        now = utc_now()
        expires_at = now + lifetime
        claims = {
            "aud": AUDIENCE,
            "sub": device_id,
            "scope": SCOPE,
            "new_photos_per_day": new_photos_per_day,
            "api_key_id": api_key_id,
            "iat": now,
            "exp": expires_at,
            "jti": secrets.token_hex(16),
        }
        key_id, secret_key = next(iter(self._secret_keys.items()))
        return DeviceToken(jwt.encode(claims, secret_key, ALGORITHM, {"typ": TYPE, "kid": key_id}), expires_at)

    async def device_of(self, text: str, address: str | None) -> Device:
        """Return what a token stands for; `address` is where it comes from.

        Raises:
            TokenExpired: it was one of ours.
            InvalidToken: anything else.
            TooManyWrongKeys: it is none of ours, and the address has sent too many wrong ones just now.
            DatabaseUnavailable, ServerBusy: its API key cannot be looked up.
        """
        try:
            claims = self._read(text)
        except InvalidToken:
            await self._api_keys.count_wrong("device token", address)
            raise
        photos, key_id = claims.get("new_photos_per_day"), claims.get("api_key_id")
        key = None
        if key_id is not None:
            key = await self._api_keys.find_by_id(key_id)
            if key is None or not key.counts(datetime.now(UTC)):
                # It is ours, and no guess: a device learns at once that it needs another.
                raise _invalid()
        return Device(claims["sub"], photos, key)

    def _read(self, text: str) -> dict[str, Any]:
        header = _header(text)
        secret_key = self._secret_keys.get(str(header.get("kid")))
        if header.get("typ") != TYPE or secret_key is None:
            raise _invalid()
        try:
            claims: dict[str, Any] = jwt.decode(
                text,
                secret_key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                # The clock of the machine that has issued it may be a little ahead of ours.
                options={"require": _REQUIRED, "verify_iat": False, "strict_aud": True},
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired("This device token has expired. Ask the app's server for another.") from None
        except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError):
            raise _invalid() from None
        # Signed by us, but perhaps by another version of us.
        numbers = (claims.get("new_photos_per_day", -1), claims.get("api_key_id", -1))
        are_numbers = all(number is None or (type(number) is int and number >= 0) for number in numbers)
        if claims["scope"] != SCOPE or not are_numbers or not 0 < len(claims["sub"]) <= DEVICE_ID_MAX_CHARACTERS:
            raise _invalid()
        return claims


def is_device_token(text: str) -> bool:
    """Return whether a text calls itself a device token; nothing of it is checked."""
    return _header(text).get("typ") == TYPE


def _header(text: str) -> dict[str, Any]:
    if len(text) > TOKEN_MAX_CHARACTERS or text.count(".") != 2:
        return {}
    try:
        return dict(jwt.get_unverified_header(text))
    except (jwt.InvalidTokenError, TypeError, ValueError):
        return {}


def _invalid() -> InvalidToken:
    return InvalidToken("This device token is not valid, or not any more. Ask the app's server for another.")
