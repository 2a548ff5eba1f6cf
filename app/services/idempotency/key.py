"""What an Idempotency-Key stands for: one request of one caller, and the answer that is kept of it."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeVar

T = TypeVar("T")

# As long as Stripe keeps them at least: https://docs.stripe.com/api/idempotent_requests
KEPT = timedelta(hours=24)


class KeptAnswer(NamedTuple):
    """A row of `idempotent_answer`; `body` is the answer's, and `image_id` the picture of a library that it is about.

    Its time is that of the database, when it is written.
    """

    key_hash: str
    fingerprint: str
    request_id: str
    user_id: str | None
    image_id: int | None
    body: str


# Makes the row that keeps the answer to a result, for the transaction that makes it count.
Keep = Callable[[T], KeptAnswer]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key of one request, hashed with all that makes it the caller's own.

    `fingerprint` tells this request from another with the same key, `user_id` is by whom the row is found when a user
    is forgotten, and `image_hashes` are of the photos of the shared cache that the answer is about.
    """

    key_hash: str
    fingerprint: str
    request_id: str
    user_id: str | None = None
    image_hashes: Sequence[str] = ()

    def keep(self, body: str, *, image_id: int | None = None) -> KeptAnswer:
        """Return the row that keeps an answer; the transaction that makes the answer count has to insert it."""
        return KeptAnswer(self.key_hash, self.fingerprint, self.request_id, self.user_id, image_id, body)


def digest_of(*parts: str) -> str:
    """Return the SHA-256 of texts, in hex; no other texts have the same where they are cut elsewhere."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
