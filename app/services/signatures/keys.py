"""Whose secret signs: the API key that a signature names. Its secret is the bytes of its `key_hash`.

What was made without that secret is counted like a wrong key.
"""

from typing import Protocol

from app.services.api_keys.key import ApiKey


class KeyStore(Protocol):
    """Where API keys are looked up, and wrong credentials counted."""

    async def find_by_id(self, key_id: int) -> ApiKey | None:
        """Return the key with this id, also one that has expired or was revoked; None where there is none."""

    async def count_wrong(self, credential: str, address: str | None) -> None:
        """Count a wrong credential of an address, such as a "signature".

        Raises:
            TooManyWrongKeys: the address has sent too many just now.
            DatabaseUnavailable, ServerBusy: it cannot be counted.
        """
