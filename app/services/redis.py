"""The client of Redis, one in each process. Everything works without Redis, only slower.

All features share its connections, and an outage is logged once, not by each of them.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.config.settings import Settings
from app.database.engine import location
from app.runtime.background import OutageLog

# A new form of the entries gets a new beginning.
KEY_PREFIX = "ic1"
TIMEOUT_SECONDS = 0.2
# A call may connect, introduce itself and read.
CALL_TIMEOUTS = 3
# How long Redis is left alone after a failure.
RETRY_SECONDS = 5.0


class RedisClient:
    """The commands of Redis (`redis`), keys of this installation, and what a failed call may raise (`failures`).

    Args:
        url: `redis://` or `rediss://`, with a password if need be.
        key_space: what tells this installation's keys from those of others, such as its database's address.
        timeout_seconds: of connecting and of reading an answer.
    """

    def __init__(self, url: str, *, key_space: str, timeout_seconds: float) -> None:
        # Imported only where it is configured: it costs half a second and 20 MB.
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        digest = hashlib.blake2s(key_space.encode(), digest_size=4).hexdigest()
        self._prefix = f"{KEY_PREFIX}:{digest}:"
        self.call_timeout_seconds = CALL_TIMEOUTS * timeout_seconds
        # A RuntimeError is uvloop's word for a reset connection, a TypeError ours for an answer that is no answer.
        self.failures: tuple[type[Exception], ...] = (RedisError, OSError, RuntimeError, TypeError)
        self.outage = OutageLog("Redis is out of reach", recovered="Redis is back", expected=self.failures)
        self.redis = Redis.from_url(
            url,
            socket_connect_timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            # One failure is enough to do without it for a while.
            retry=Retry(NoBackoff(), 0),
            # Understood by every server and proxy.
            protocol=2,
        )

    def key(self, name: str) -> str:
        """Return the key, or the channel, of this installation for `name`."""
        return self._prefix + name

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[RedisClient | None]:
    """Yield the client, or None without REDIS_URL; its connections are closed at the end of the block."""
    address = settings.cache.redis_url.get_secret_value()
    if not address:
        yield None
        return
    client = RedisClient(address, key_space=location(settings.database_url), timeout_seconds=TIMEOUT_SECONDS)
    try:
        yield client
    finally:
        await client.close()
