"""Content-Digest (RFC 9530): counted as the body arrives, checked when it is complete.

It covers the content as it stands on the wire: of a form the whole form, not the file in it.
"""

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import http_sf

from app.errors import DigestMismatch

if TYPE_CHECKING:
    from hashlib import _Hash

# Others of the registry are for accidents, not for attackers; a member of an algorithm that is not here is ignored.
ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


class ContentDigest:
    """The digests that one field names, and what has arrived so far."""

    def __init__(self, field: str) -> None:
        """Read a Content-Digest.

        Raises:
            DigestMismatch: it names no digest that can be checked.
        """
        try:
            members: Any = http_sf.parse(field.encode(), tltype="dictionary", on_duplicate_key=_refuse)
        except (ValueError, TypeError):
            raise DigestMismatch("Content-Digest is not a dictionary of structured fields (RFC 9651).") from None
        self._counted: list[tuple[_Hash, bytes]] = []
        for name, member in members.items():
            if name not in ALGORITHMS:
                continue
            value = member[0] if isinstance(member, tuple) else member
            if not isinstance(value, bytes):
                raise DigestMismatch("Content-Digest: {name} is no byte sequence.", values={"name": name})
            self._counted.append((ALGORITHMS[name](), value))
        if not self._counted:
            raise DigestMismatch("Content-Digest has neither sha-256 nor sha-512.")

    def update(self, piece: bytes) -> None:
        """Count the next bytes of the body."""
        for digest, _ in self._counted:
            digest.update(piece)

    def check(self) -> None:
        """Check the body that was counted.

        Raises:
            DigestMismatch: it is another than the field says.
        """
        if not all(hmac.compare_digest(digest.digest(), expected) for digest, expected in self._counted):
            raise DigestMismatch


def _refuse(name: str, _context: str) -> None:
    raise ValueError(name)
