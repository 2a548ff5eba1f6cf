"""Copies of cache entries in Redis, shared by all processes; everything works without it, only slower.

A call that fails ends the contact: Redis is then left alone until `connect` has found it again. What is read from
it is input from outside: an entry that we would not have written counts as absent.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from app.categories import Category
from app.services.cache.entry import CONFIDENCE_DIGITS, CachedResult
from app.services.redis import RETRY_SECONDS, RedisClient

T = TypeVar("T")

TIME_TO_LIVE_SECONDS = 24 * 3600
# Making contact deletes what was changed meanwhile: 100 000 keys take half a second.
CONNECT_CALLS = 3
DELETE_BATCH_KEYS = 500
# What a model or a person may write is far below; a description is TEXT in the database, at most 65535 bytes.
ENTRY_MAX_BYTES = 70_000


class RedisCache:
    """Reads, writes and deletes entries by hash while there is contact; without contact it holds nothing."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._in_contact = False
        self._retry_at = 0.0

    @property
    def in_contact(self) -> bool:
        return self._in_contact

    def key(self, image_hash: str) -> str:
        """The Redis key of an entry."""
        return self._client.key(image_hash)

    async def connect(self, forget: Collection[str]) -> None:
        """Make contact if there is none and it is time for another try; the entries of `forget` are deleted first."""
        if self._in_contact or time.monotonic() < self._retry_at:
            return

        try:
            async with asyncio.timeout(CONNECT_CALLS * self._client.call_timeout_seconds):
                await self._redis.ping()
                await self._delete(list(forget))
        except self._client.failures as error:
            self._lose(error)
            return
        self._in_contact = True
        self._client.outage.succeeded()

    async def get_many(self, image_hashes: Sequence[str]) -> dict[str, CachedResult]:
        """Return the valid entries."""

        async def mget() -> list[Any]:
            return list(await self._redis.mget([self.key(each) for each in image_hashes]))

        values = await self._call(mget) if image_hashes else None
        entries = {each: read_entry(value) for each, value in zip(image_hashes, values or (), strict=False) if value}
        return {image_hash: entry for image_hash, entry in entries.items() if entry is not None}

    async def set_many(self, entries: Mapping[str, CachedResult]) -> None:
        """Write entries, over whatever is there."""

        async def set_each() -> None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for image_hash, entry in entries.items():
                    pipeline.set(self.key(image_hash), write_entry(entry), ex=TIME_TO_LIVE_SECONDS)
                await pipeline.execute()

        if entries:
            await self._call(set_each)

    async def forget(self, image_hashes: Collection[str]) -> None:
        """Delete entries."""
        if image_hashes:
            await self._call(lambda: self._delete(list(image_hashes)))

    async def _delete(self, image_hashes: Sequence[str]) -> None:
        for start in range(0, len(image_hashes), DELETE_BATCH_KEYS):
            batch = image_hashes[start : start + DELETE_BATCH_KEYS]
            await self._redis.unlink(*map(self.key, batch))

    async def _call(self, command: Callable[[], Awaitable[T]]) -> T | None:
        if not self._in_contact:
            return None
        try:
            async with asyncio.timeout(self._client.call_timeout_seconds):
                return await command()
        except self._client.failures as error:
            self._lose(error)
            return None

    def _lose(self, error: Exception) -> None:
        self._in_contact = False
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._client.outage.failed(error)


def write_entry(entry: CachedResult) -> bytes:
    """Return an entry as Redis keeps it: `["foods",0.9,"…"]` in UTF-8."""
    fields = [entry.category.value, entry.confidence, entry.description]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def read_entry(value: object) -> CachedResult | None:
    """Return the entry that `write_entry` wrote, or None for anything else."""
    if not isinstance(value, bytes) or len(value) > ENTRY_MAX_BYTES:
        return None
    try:
        fields = json.loads(value.decode())
        category, confidence, description = fields
        if type(fields) is not list or type(confidence) not in {int, float} or not 0 <= confidence <= 1:
            return None
        if description is not None:
            # A lone surrogate cannot be encoded.
            description.encode()
        return CachedResult(Category(category), round(float(confidence), CONFIDENCE_DIGITS), description)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
