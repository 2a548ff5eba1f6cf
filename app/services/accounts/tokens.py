"""Tokens: what proves, for a limited time, that a client has logged in. JSON Web Tokens (RFC 7519), HS256 only.

There may be two keys, while an operator replaces one by the other: the first signs, both verify. A token names its key
by `kid`, which is made of the key and tells nothing of it.
"""

import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt

from app.clock import utc_now
from app.config.accounts import SECRET_KEY_MIN_BYTES
from app.errors import InvalidToken, TokenExpired

ALGORITHM = "HS256"
# In the folder of our own files.
SECRET_KEY_FILE = "secret-key"  # noqa: S105 - its name
# Longer than any token of ours; a longer one is not worth looking at.
TOKEN_MAX_CHARACTERS = 4096
KEY_ID_CHARACTERS = 16
# As `issue` writes it: int() would also take "+5", " 5", "1_0" and digits of other scripts.
_ACCOUNT_ID = re.compile(r"[1-9][0-9]{0,18}")
# What the columns can hold, on each database.
_MAX_ACCOUNT_ID = 2**63 - 1
_MAX_GENERATION = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is what the caller sends back; it counts until `expires_at`, or until the account has a new password."""

    text: str = field(repr=False)
    expires_at: datetime
    lifetime_seconds: int


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says: whose it is, of which generation of the account's tokens, and how old it is."""

    user_id: int
    generation: int
    issued_at: datetime
    expires_at: datetime


class TokenIssuer:
    """Makes tokens and checks them; knows nothing of accounts. Of `secret_keys` the first signs, all verify."""

    def __init__(self, secret_keys: Sequence[str], lifetime: timedelta) -> None:
        self._keys = {key_id(key): key for key in secret_keys}
        self._signing_key_id = key_id(secret_keys[0])
        self._lifetime = lifetime

    def issue(self, user_id: int, generation: int) -> Token:
        """Return a token for an account."""
        now = utc_now()
        expires_at = now + self._lifetime
        claims = {
            "sub": str(user_id),
            "gen": generation,
            "iat": now,
            "exp": expires_at,
            "jti": secrets.token_hex(16),
        }
        key_id = self._signing_key_id
        text = jwt.encode(claims, self._keys[key_id], algorithm=ALGORITHM, headers={"kid": key_id})
        return Token(text, expires_at, int(self._lifetime.total_seconds()))

    def read(self, text: str) -> Claims:
        """Return what a token says.

        Raises:
            TokenExpired: it was one of ours.
            InvalidToken: anything else.
        """
        if len(text) > TOKEN_MAX_CHARACTERS:
            raise InvalidToken
        try:
            *others, last = self._keys_of(text)
            for key in others:
                try:
                    return _read(text, key)
                except jwt.InvalidSignatureError:
                    continue
            return _read(text, last)
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        # RecursionError: brackets in brackets, which the JSON of a header may be.
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            raise InvalidToken from None

    def _keys_of(self, text: str) -> list[str]:
        """Return the key that a token names, or all where it names none, as those of earlier versions.

        Raises:
            KeyError, TypeError, jwt.InvalidTokenError: it names none of ours, or is no token.
        """
        header = jwt.get_unverified_header(text)
        return [self._keys[header["kid"]]] if "kid" in header else list(self._keys.values())


def _read(text: str, key: str) -> Claims:
    claims = jwt.decode(
        text,
        key,
        algorithms=[ALGORITHM],
        # The clock of the machine that has issued it may be a little ahead of ours.
        options={"require": ["sub", "exp", "iat", "jti"], "verify_iat": False},
    )
    if not _ACCOUNT_ID.fullmatch(claims["sub"]):
        raise ValueError
    return Claims(
        user_id=_whole_number(int(claims["sub"]), up_to=_MAX_ACCOUNT_ID),
        generation=_whole_number(claims["gen"], up_to=_MAX_GENERATION),
        issued_at=_moment(claims["iat"]),
        expires_at=_moment(claims["exp"]),
    )


def _moment(value: Any) -> datetime:
    return datetime.fromtimestamp(_whole_number(value, up_to=2**63), UTC)


def _whole_number(value: Any, *, up_to: int) -> int:
    # `true` is an int of Python, and 1.5 would be cut.
    if type(value) is not int or not 0 <= value <= up_to:
        raise ValueError
    return value


def is_account_token(text: str) -> bool:
    """Return whether a text has the form of an account's token; nothing of it is checked."""
    if len(text) > TOKEN_MAX_CHARACTERS:
        return False
    try:
        jwt.get_unverified_header(text)
    except (jwt.InvalidTokenError, TypeError, ValueError, RecursionError):
        return False
    return True


def key_id(secret_key: str) -> str:
    """Return the `kid` of a key: it tells keys apart, and nothing of them."""
    return hmac.digest(secret_key.encode(), b"kid", "sha256").hex()[:KEY_ID_CHARACTERS]


def kept_secret_key(folder: Path) -> str:
    """Return the key that is kept in `folder`; the first process makes it, readable by this user alone.

    Raises:
        OSError: the folder or the file cannot be used.
        ValueError: the file is there, but what it holds is too short for a key.
    """
    file = folder / SECRET_KEY_FILE
    if not file.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = folder / f"{SECRET_KEY_FILE}.{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as target:
            target.write(secrets.token_hex(SECRET_KEY_MIN_BYTES))
            target.flush()
            # A power cut might otherwise leave the name without the key.
            os.fsync(descriptor)
        try:
            # Unlike a rename, a link does not replace the key of a process that was faster.
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    key = file.read_text().strip()
    if len(key.encode()) < SECRET_KEY_MIN_BYTES:
        raise ValueError(f"{file} has no key of {SECRET_KEY_MIN_BYTES} bytes or more; remove it, and a new one is made")
    return key
