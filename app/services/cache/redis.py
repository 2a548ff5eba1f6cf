"""Copies of cache entries in Redis, shared by all processes; everything works without it, only slower.

A call that fails ends the contact: Redis is then left alone until `connect` has found it again. What is read from
it is input from outside: an entry that we would not have written counts as absent. `CacheTiers` decides what may be
written, and whether what is found still counts.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from app.categories import Category
from app.language.accept import Language
from app.services.cache.entry import CONFIDENCE_DIGITS, CachedResult
from app.services.redis import RETRY_SECONDS, RedisClient

T = TypeVar("T")

# Redis is for what is asked for often; tiers.py says why not longer.
LIFETIME = timedelta(seconds=45)
# What a model or a person may write is far below; a description is TEXT in the database, at most 65535 bytes.
ENTRY_MAX_BYTES = 70_000
# Of what `write_copy` writes. Another version's copies, which lack something or have more, are misses.
FORMAT_VERSION = 3


class Copy(NamedTuple):
    """An entry, and the database's time up to which its writer knew of changes."""

    entry: CachedResult
    as_of: datetime


class RedisCache:
    """Reads and writes entries by hash while there is contact; without contact it holds nothing."""

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

    async def connect(self) -> None:
        """Make contact if there is none and it is time for another try."""
        if self._in_contact or time.monotonic() < self._retry_at:
            return

        try:
            async with asyncio.timeout(self._client.call_timeout_seconds):
                await self._redis.ping()
        except self._client.failures as error:
            self._lose(error)
            return
        self._in_contact = True
        self._client.outage.succeeded()

    async def get_many(self, image_hashes: Sequence[str]) -> dict[str, Copy]:
        """Return the valid copies."""

        async def mget() -> list[Any]:
            return list(await self._redis.mget([self.key(each) for each in image_hashes]))

        values = await self._call(mget) if image_hashes else None
        copies = {each: read_copy(value) for each, value in zip(image_hashes, values or (), strict=False) if value}
        return {image_hash: copy for image_hash, copy in copies.items() if copy is not None}

    async def set_many(self, entries: Mapping[str, CachedResult], *, as_of: datetime) -> None:
        """Write copies of entries, over whatever is there; `as_of` as in `Copy`."""

        async def set_each() -> None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for image_hash, entry in entries.items():
                    pipeline.set(self.key(image_hash), write_copy(Copy(entry, as_of)), ex=LIFETIME)
                await pipeline.execute()

        if entries:
            await self._call(set_each)

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


def write_copy(copy: Copy) -> bytes:
    """Return a copy as Redis keeps it: `[3,"foods",0.9,"…","gpt-6-luna",10000,"zh",{"en":"…"},1795219200]` in UTF-8."""
    entry = copy.entry
    fields = [
        FORMAT_VERSION,
        entry.category.value,
        entry.confidence,
        entry.description,
        entry.model,
        entry.cost_micros,
        entry.language,
        entry.translations,
        int(copy.as_of.timestamp()),
    ]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def read_copy(value: object) -> Copy | None:
    """Return the copy that `write_copy` wrote, or None for anything else."""
    if not isinstance(value, bytes) or len(value) > ENTRY_MAX_BYTES:
        return None
    try:
        fields = json.loads(value.decode())
        version, category, confidence, description, model, cost_micros, language, translations, as_of = fields
        if type(fields) is not list or version != FORMAT_VERSION or type(model) is not str:
            return None
        if type(confidence) not in {int, float} or not 0 <= confidence <= 1:
            return None
        if type(cost_micros) is not int or cost_micros < 0:
            return None
        texts = {} if translations is None else {Language(each): text for each, text in translations.items()}
        for text in (description, *texts.values()):
            if text is not None:
                # A lone surrogate cannot be encoded.
                text.encode()
        model.encode()
        entry = CachedResult(
            category=Category(category),
            confidence=round(float(confidence), CONFIDENCE_DIGITS),
            description=description,
            model=sys.intern(model),
            cost_micros=cost_micros,
            language=None if language is None else Language(language),
            translations=texts or None,
        )
        return Copy(entry, datetime.fromtimestamp(as_of, UTC))
    except (ValueError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
        return None
