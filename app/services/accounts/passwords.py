"""Passwords: hashed with Argon2, in threads, and never faster for a name that does not exist."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

from app.errors import ServerBusy

T = TypeVar("T")

# A hash takes 64 MiB and some 50 ms of a core (RFC 9106's second choice), and not the event loop's. New passwords have
# a thread of their own: a client that signs up all the time must not keep others from logging in.
NEW, KNOWN = "new", "known"
# More than that many would wait for longer than people do.
MAX_WAITING = 64
RETRY_AFTER_SECONDS = 5.0


class PasswordHasher:
    """Hashes and compares passwords, each in a thread of its own."""

    def __init__(self) -> None:
        self._hash = PasswordHash((Argon2Hasher(),))
        self._threads = {name: ThreadPoolExecutor(1, thread_name_prefix=f"argon2-{name}") for name in (NEW, KNOWN)}
        self._waiting = {NEW: 0, KNOWN: 0}
        # Of a random password, to be compared with where there is no account.
        self._unknown: str | None = None

    async def hash(self, password: str) -> str:
        """Return the hash to keep.

        Raises:
            ServerBusy: too many are waiting for theirs.
        """
        return await self._run(NEW, partial(self._hash.hash, password))

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether `password` is the one of the hash. With None it is not, which takes as long to find out.

        Raises:
            ServerBusy: too many are waiting to be compared.
        """
        return await self._run(KNOWN, partial(self._matches, password, password_hash))

    def close(self) -> None:
        """Wait for what is under way."""
        for threads in self._threads.values():
            threads.shutdown()

    async def _run(self, which: str, work: Callable[[], T]) -> T:
        if self._waiting[which] >= MAX_WAITING:
            raise ServerBusy(retry_after_seconds=RETRY_AFTER_SECONDS)
        self._waiting[which] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads[which], work)
        finally:
            self._waiting[which] -= 1

    def _matches(self, password: str, password_hash: str | None) -> bool:
        if self._unknown is None:
            self._unknown = self._hash.hash(secrets.token_hex(16))
        try:
            matches = self._hash.verify(password, password_hash or self._unknown)
        except UnknownHashError:
            return False
        return matches and password_hash is not None
