"""What an API key is: a secret that is shown once, and what it may do."""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

# Lets programs that search for leaked secrets recognise one.
PREFIX = "ic_"
# 256 bits, as RFC 4086 asks of a key that must not be guessed for long.
SECRET_BYTES = 32
NAME_MAX_CHARACTERS = 64
# Of ADMIN_API_KEY, which is not in the table.
ADMIN_KEY_ID = 0
# Longer than any key; a longer one is not worth hashing.
KEY_MAX_CHARACTERS = 4096


class Scope(StrEnum):
    """What a key may do; `admin` includes the others."""

    CLASSIFY = "classify"
    STATS = "stats"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as its row has it; `key_hash` is the SHA-256 of its text, in hex.

    `budget_micros` is what it may spend a day, in millionths of CURRENCY.
    """

    id: int
    name: str
    key_hash: str = field(repr=False)
    scopes: frozenset[str]
    created_at: datetime
    budget_micros: int | None = None
    rate_per_minute: int | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def may(self, scope: Scope) -> bool:
        """Return whether the key has this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def counts(self, now: datetime) -> bool:
        """Return whether the key was neither revoked nor has expired by `now`, which is aware."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def actor(self) -> str:
        """What the audit log calls it."""
        return "ADMIN_API_KEY" if self.id == ADMIN_KEY_ID else f"key:{self.id}"


def new_key_text() -> str:
    """Return the text of a new key."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def hash_of(text: str) -> str:
    """Return the SHA-256 that is kept of a key. A fast hash is enough for what has 256 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
