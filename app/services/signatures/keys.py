"""Whose secret signs: the API key that a signature names. Its secret is the bytes of its `key_hash`."""

from typing import Protocol

from app.services.api_keys.key import ApiKey


class KeyStore(Protocol):
    """Where API keys are looked up."""

    async def find_by_id(self, key_id: int) -> ApiKey | None:
        """Return the key with this id, also one that has expired or was revoked; None where there is none."""
