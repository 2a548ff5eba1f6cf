"""Who votes, and as whom a vote counts: an account, a device, an API key, or without these a user id and a network.

A user id costs nothing to make up, so callers without a credential count as many as they are users, or as many as
they are networks, whichever is less. So do accounts while any client may make one. Nothing of a voter is kept but
SHA-256, which is enough to replace a vote, to count, and to find what a user who asks for it has sent.
"""

import hashlib
from dataclasses import dataclass

from app.runtime.client_key import IPV6_SITE_BITS, client_key
from app.services.request_log.record import Caller


@dataclass(frozen=True, slots=True)
class Voter:
    """SHA-256 in hex: whose vote it is, as whom it counts, from which network (None: not asked), of which user id."""

    voter: str
    counted_as: str
    network: str | None
    user_hash: str | None


def voter_of(caller: Caller, *, key_id: int | None, is_device: bool, is_sign_up_open: bool) -> Voter:
    """Return who votes.

    Args:
        caller: its user id, address and account.
        key_id: the API key that it has sent or signed with; None without one, or with a device token.
        is_device: it has sent a device token, which says what its user id is.
        is_sign_up_open: any client may make an account.
    """
    user_hash = None if caller.user_id is None else hash_of_user(caller.user_id)
    network = _hash(f"network:{client_key(caller.ip_address, ipv6_bits=IPV6_SITE_BITS)}")
    if caller.account_id is not None:
        who = _hash(f"account:{caller.account_id}")
        return Voter(who, who, network if is_sign_up_open else None, user_hash)
    if is_device:
        who = _hash(f"device:{caller.user_id}")
        return Voter(who, who, None, user_hash)
    if key_id is not None:
        # A server asks for its users: each has a vote, and all of them count as the one key.
        counted_as = _hash(f"key:{key_id}")
        return Voter(_hash(f"key:{key_id}:{caller.user_id or ''}"), counted_as, None, user_hash)
    who = network if caller.user_id is None else _hash(f"user:{caller.user_id}")
    return Voter(who, who, network, user_hash)


def hash_of_user(user_id: str) -> str:
    """Return what the table has of a user id."""
    return _hash(f"id:{user_id}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
