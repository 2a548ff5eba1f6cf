"""Tokens: what proves, for a limited time, that a client has logged in. JSON Web Tokens (RFC 7519), HS256 only."""

import hmac
import os
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt

from app.clock import utc_now
from app.config.settings import SECRET_KEY_MIN_BYTES
from app.errors import InvalidToken, TokenExpired

ALGORITHM = "HS256"
# In the folder of our own files.
SECRET_KEY_FILE = "secret-key"  # noqa: S105 - its name
# Longer than any token of ours; a longer one is not worth looking at.
TOKEN_MAX_CHARACTERS = 4096
KEY_ID_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is what the caller sends back; it counts until `expires_at`, or until the account has a new password."""

    text: str = field(repr=False)
    expires_at: datetime
    lifetime_seconds: int


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says: whose it is, and of which generation of the account's tokens."""

    user_id: int
    generation: int
    expires_at: datetime


class TokenIssuer:
    """Makes tokens and checks them; knows nothing of accounts."""

    def __init__(self, secret_key: str, lifetime: timedelta) -> None:
        self._secret_key = secret_key
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
        text = jwt.encode(claims, self._secret_key, algorithm=ALGORITHM)
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
            claims = jwt.decode(
                text,
                self._secret_key,
                algorithms=[ALGORITHM],
                # The clock of the machine that has issued it may be a little ahead of ours.
                options={"require": ["sub", "exp", "iat", "jti"], "verify_iat": False},
            )
            return Claims(int(claims["sub"]), int(claims["gen"]), datetime.fromtimestamp(claims["exp"], UTC))
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, OverflowError):
            raise InvalidToken from None


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
