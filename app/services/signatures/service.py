"""Signed requests: the key whose secret signed, in time and for the first time; and what the body has to be."""

import time
from datetime import UTC, datetime

from app.errors import InvalidSignature, NonceReused, SignatureExpired
from app.services.api_keys.key import ApiKey
from app.services.signatures.digests import ContentDigest
from app.services.signatures.keys import KeyStore
from app.services.signatures.nonces import NonceTable
from app.services.signatures.verification import Signature, SignedRequest, check_signature, key_id_of

# How far `created` may be from this machine's clock, in either direction.
WINDOW_SECONDS = 300
# For a key that is not there: to compute with it takes as long as with another, and no client knows it.
_NO_SECRET = bytes(32)


class SignatureService:
    """Tells which API key has signed a request."""

    def __init__(self, keys: KeyStore, nonces: NonceTable) -> None:
        self._keys = keys
        self._nonces = nonces

    async def verify(
        self, request: SignedRequest, *, request_id: str, address: str | None
    ) -> tuple[ApiKey, ContentDigest | None]:
        """Return the key that has signed a request, and what its body has to be; this uses its nonce up.

        Args:
            request: its header; the body need not have arrived.
            request_id: ours.
            address: where it comes from: wrong signatures are slowed, right ones never.

        Raises:
            InvalidSignature: it is not signed as documented, or not by a key that counts.
            TooManyWrongKeys: it is not, and the address has sent too many wrong ones just now.
            SignatureExpired: it was made too long ago, or in the future.
            NonceReused: a request with this nonce was here before.
            DigestMismatch: its Content-Digest cannot be checked.
            DatabaseUnavailable, ServerBusy: key and nonce cannot be looked up.
        """
        try:
            key, signature = await self._check(request)
        except InvalidSignature:
            await self._keys.count_wrong("signature", address)
            raise
        now = time.time()
        is_late = signature.expires is not None and signature.expires < now
        if is_late or abs(now - signature.created) > WINDOW_SECONDS:
            raise SignatureExpired
        digest = None if signature.digest is None else ContentDigest(signature.digest)
        # Twice: the clock of another machine may be behind this one's.
        expires_at = signature.created + 2 * WINDOW_SECONDS
        if not await self._nonces.use(key.id, signature.nonce, request_id=request_id, expires_at=expires_at):
            raise NonceReused
        return key, digest

    async def _check(self, request: SignedRequest) -> tuple[ApiKey, Signature]:
        """Return the key that has signed a request, and what the signature says.

        Raises:
            InvalidSignature: it is not signed as documented, or not by a key that counts.
        """
        key_id = key_id_of(request)
        key = await self._keys.find_by_id(key_id)
        if key is not None and not key.counts(datetime.now(UTC)):
            key = None
        signature = check_signature(request, key_id, _NO_SECRET if key is None else bytes.fromhex(key.key_hash))
        if key is None:
            raise InvalidSignature
        return key, signature
