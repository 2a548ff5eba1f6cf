"""Request ids: `req_{unix seconds}_{12 hex digits}`, readable, sortable by time, unique without asking a server."""

import secrets
import time


def new_request_id() -> str:
    """Return a new id; 48 random bits keep ids of the same second apart."""
    return f"req_{int(time.time())}_{secrets.token_hex(6)}"
