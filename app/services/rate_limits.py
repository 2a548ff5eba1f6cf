"""How many requests a minute one key or one address may make, counted by the library `limits` in a sliding window.

In Redis, where there is one, so that all processes count together; else each process counts its own. While Redis is
away, each process counts its own, too: a limit never stops the service.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from app.errors import RateLimited
from app.runtime.client_key import IPV6_SITE_BITS, client_key
from app.services.redis import RETRY_SECONDS, RedisClient

if TYPE_CHECKING:
    from limits.aio.storage import RedisStorage

KEY, ADDRESS, FEEDBACK = "key", "address", "feedback"


class RateLimits:
    """Counts requests.

    Args:
        redis: where all processes count together; None: each counts its own.
        per_address: requests a minute of one address without a key; None: no limit.
    """

    def __init__(self, redis: RedisClient | None, *, per_address: int | None) -> None:
        self._redis = redis
        self._per_address = None if per_address is None else RateLimitItemPerMinute(per_address)
        self._in_memory = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._in_redis = None if redis is None else SlidingWindowCounterRateLimiter(_storage_in(redis))
        self._retry_at = 0.0

    async def count_key(self, key_id: int, per_minute: int) -> None:
        """Count a request of an API key.

        Raises:
            RateLimited: it is one too many; it is not counted.
        """
        await self._count(RateLimitItemPerMinute(per_minute), KEY, str(key_id))

    async def count_address(self, address: str | None) -> None:
        """Count a request without a key, where addresses are limited; of IPv6, a /64 network is one address.

        Raises:
            RateLimited: it is one too many; it is not counted.
        """
        if self._per_address is not None and address is not None:
            await self._count(self._per_address, ADDRESS, client_key(address))

    async def count_feedback(self, address: str | None, per_minute: int) -> None:
        """Count feedback from an address, which may send so much a minute; of IPv6, a /48 network is one address.

        Raises:
            RateLimited: it is one too many; it is not counted.
        """
        await self._count(RateLimitItemPerMinute(per_minute), FEEDBACK, client_key(address, ipv6_bits=IPV6_SITE_BITS))

    async def _count(self, limit: RateLimitItemPerMinute, kind: str, name: str) -> None:
        if self._in_redis is not None and self._redis is not None and time.monotonic() >= self._retry_at:
            try:
                async with asyncio.timeout(self._redis.call_timeout_seconds):
                    await _hit(self._in_redis, limit, kind, name)
            except self._redis.failures as error:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                self._redis.outage.failed(error)
            else:
                return
        await _hit(self._in_memory, limit, kind, name)


async def _hit(limiter: SlidingWindowCounterRateLimiter, limit: RateLimitItemPerMinute, kind: str, name: str) -> None:
    if not await limiter.hit(limit, kind, name):
        stats = await limiter.get_window_stats(limit, kind, name)
        raise RateLimited(details={"per_minute": limit.amount}, retry_after_seconds=stats.reset_time - time.time())


def _storage_in(redis: RedisClient) -> "RedisStorage":
    # Imported only where there is Redis, whose library it needs.
    from limits.aio.storage import RedisStorage

    return RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix=redis.key("rate"),
        connection_pool=redis.redis.connection_pool,  # type: ignore[arg-type]  # documented, but not in its types
    )
