"""Passwords: hashed with Argon2, in threads, and never faster for a name that does not exist."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

# A hash takes 64 MiB and some 50 ms of a core (RFC 9106's second choice): a few at once, and not the event loop's.
HASHES_AT_ONCE = 2


class PasswordHasher:
    """Hashes and compares passwords in threads of its own."""

    def __init__(self) -> None:
        self._hash = PasswordHash((Argon2Hasher(),))
        self._threads = ThreadPoolExecutor(HASHES_AT_ONCE, thread_name_prefix="argon2")
        # Of a password that nobody knows, to be compared with where there is no account.
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """Return the hash to keep."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hash.hash, password)

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether `password` is the one of the hash. With None it is not, which takes as long to find out."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._matches, password, password_hash)

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown()

    def _matches(self, password: str, password_hash: str | None) -> bool:
        if self._nobodys is None:
            self._nobodys = self._hash.hash("nobody's")
        try:
            matches = self._hash.verify(password, password_hash or self._nobodys)
        except UnknownHashError:
            return False
        return matches and password_hash is not None
