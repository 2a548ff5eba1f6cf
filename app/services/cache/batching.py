"""Look-ups that share a query: what arrives while queries are under way is fetched together by the next one.

There is no timer: a look-up that comes alone goes out at once, alone. A look-up never joins a query that is already
under way, which may have read before the entry was stored; so the absence of an entry is not remembered, and
is told only to those who asked before the query began.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from app.errors import AppError, ServerBusy
from app.runtime.background import fail, shared, spawn

V = TypeVar("V")

MAX_HASHES_PER_QUERY = 200
# The second hides the way to the database and back; more would only make the groups smaller.
MAX_QUERIES = 2
# 10 000 hashes are what 20 of the largest calls ask for at once.
MAX_WAITING_QUERIES = 50
RETRY_AFTER_SECONDS = 1.0


@dataclass(slots=True)
class _Group(Generic[V]):
    found: "asyncio.Future[Mapping[str, V]]"
    hashes: dict[str, None] = field(default_factory=dict)


class DataLoader(Generic[V]):
    """Answers look-ups by `fetch`, which returns those of the given keys that exist."""

    def __init__(self, fetch: Callable[[list[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._fetch = fetch
        self._waiting: deque[_Group[V]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def find(self, hashes: Iterable[str]) -> dict[str, V]:
        """Return what exists of `hashes`.

        Raises:
            ServerBusy: too many look-ups wait already.
            AppError: what `fetch` raised for the group, or for the one before it.
        """
        if len(self._waiting) >= MAX_WAITING_QUERIES:
            raise ServerBusy(retry_after_seconds=RETRY_AFTER_SECONDS)
        wanted = list(dict.fromkeys(hashes))
        groups = {id(group): group for group in map(self._join, wanted)}
        found: dict[str, V] = {}
        for group in groups.values():
            # A cancelled look-up does not cancel the query that others share.
            shared_rows = await shared(group.found)
            found.update(shared_rows)
        return {each: found[each] for each in wanted if each in found}

    async def close(self) -> None:
        """Wait for the queries that are under way."""
        await asyncio.gather(*self._workers, return_exceptions=True)

    def _join(self, image_hash: str) -> _Group[V]:
        if not self._waiting or len(self._waiting[-1].hashes) >= MAX_HASHES_PER_QUERY:
            self._waiting.append(_Group(asyncio.get_running_loop().create_future()))
            if len(self._workers) < MAX_QUERIES:
                self._workers.add(spawn(self._work(), name="cache-reader"))
        group = self._waiting[-1]
        group.hashes[image_hash] = None
        return group

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._serve(self._waiting.popleft())
        finally:
            # Here, not in a callback of the task, which runs later: a look-up in between would start no worker.
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _serve(self, group: _Group[V]) -> None:
        try:
            found = await self._fetch(list(group.hashes))
        except AppError as error:
            # Those who wait behind would only wait longer for the same.
            for each in (group, *self._waiting):
                fail(each.found, error)
            self._waiting.clear()
        except Exception as error:  # noqa: BLE001 - handed to the requests, which report it
            fail(group.found, error)
        else:
            group.found.set_result(found)
        finally:
            # At the end of the event loop, when this task is cancelled.
            group.found.cancel()
