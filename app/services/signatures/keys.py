"""Whose secret signs: the API key that a signature names."""

from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Protocol


class SigningKey(Protocol):
    """An API key as its row has it; `key_hash` is the SHA-256 of the key in hex, and its bytes are the secret."""

    @property
    def id(self) -> int: ...

    @property
    def key_hash(self) -> str: ...

    @property
    def scopes(self) -> AbstractSet[str]: ...

    @property
    def budget_micros(self) -> int | None: ...

    @property
    def expires_at(self) -> datetime | None: ...

    @property
    def revoked_at(self) -> datetime | None: ...


class KeyStore(Protocol):
    """Where API keys are looked up."""

    async def find_by_id(self, key_id: int) -> SigningKey | None:
        """Return the key with this id, also one that has expired or was revoked; None where there is none.

        Raises:
            DatabaseUnavailable, ServerBusy: it cannot be looked up.
        """


def counts(key: SigningKey, now: datetime) -> bool:
    """Return whether a key was neither revoked nor has expired by `now`, which is aware."""
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)
