"""The shared cache: SHA-256 of a photo -> its classification. Only people change a valid entry.

Memory is asked first, then Redis where there is one, then the database, which alone is the truth. Entries of the
local demo model are provisional: they count only while that model is the configured one, and the first answer of
another model replaces them. They are kept in memory, where only processes of that model look, and not in Redis.
New entries come from app/services/classification/store.py.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.database.pipeline import Rows, run
from app.database.statements import Statement, runs_in_process
from app.database.transactions import write
from app.observability import metrics
from app.services.cache.batching import DataLoader
from app.services.cache.entry import CachedResult
from app.services.cache.rows import entries_of, select_entries
from app.services.cache.tiers import CacheTiers
from app.services.request_log.rollups import Rollups

T = TypeVar("T")


class CacheService:
    """Reads `image_classification_cache`, and changes it for people; hashes are 64 lower-case hex digits.

    Args:
        engine: the database.
        accepts_provisional: entries of the local model count, because it is the configured one.
        rollups: what sums entries and hits up.
        copies: memory and Redis; none when left out.
        translated: entries are read with their descriptions in further languages; where all requests get one, a hit
            does not wait for them.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        accepts_provisional: bool,
        rollups: Rollups,
        copies: CacheTiers | None = None,
        translated: bool = True,
    ) -> None:
        self._engine = engine
        self._rollups = rollups
        self.accepts_provisional = accepts_provisional
        self._translated = translated
        self._copies = copies or CacheTiers()
        self._reader = DataLoader(self._fetch)

    def select(self, image_hashes: Collection[str]) -> Statement:
        """Return the look-up of entries in the database; `keep_found` reads its rows."""
        return select_entries(image_hashes, accepts_provisional=self.accepts_provisional, translated=self._translated)

    def peek(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image if memory has it; None says nothing about the database."""
        entry = self._copies.peek(image_hash)
        if entry is not None:
            metrics.count(metrics.LOOKUPS_IN_MEMORY)
        return entry

    async def get_copy(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image if it is found without a trip; None says nothing about the database.

        That is in memory, in Redis, or in a database that runs in this process, where a write waits for others.
        """
        if runs_in_process(self._engine.dialect.name):
            return await self.get(image_hash)
        entry = self.peek(image_hash)
        if entry is None and (entry := (await self._copies.find([image_hash])).get(image_hash)) is not None:
            metrics.count(metrics.LOOKUPS_IN_REDIS)
        return entry

    async def get(self, image_hash: str) -> CachedResult | None:
        """Return the entry of one image, or None.

        Raises:
            ServerBusy: too many look-ups wait.
            AppError: the database failed.
        """
        return self.peek(image_hash) or (await self._find([image_hash])).get(image_hash)

    async def get_many(self, image_hashes: Sequence[str]) -> Mapping[str, CachedResult]:
        """Return the entries that exist, by hash; raises as `get` does."""
        found: dict[str, CachedResult] = {}
        unknown: list[str] = []
        for image_hash in image_hashes:
            entry = self.peek(image_hash)
            if entry is None:
                unknown.append(image_hash)
            else:
                found[image_hash] = entry
        if unknown:
            found.update(await self._find(unknown))
        return found

    async def keep(self, entries: Mapping[str, CachedResult], *, are_provisional: bool = False) -> None:
        """Let memory and Redis know entries that were just read from the database, or committed to it."""
        if are_provisional:
            self._copies.keep_in_memory(entries)
        else:
            await self._copies.keep(entries)

    def keep_unsaved(self, image_hash: str, entry: CachedResult, *, is_provisional: bool) -> None:
        """Let memory know an entry that is kept elsewhere until the database is back, if it counts."""
        if self.accepts_provisional or not is_provisional:
            self._copies.keep_unsaved(image_hash, entry)

    async def keep_found(self, rows: Rows) -> dict[str, CachedResult]:
        """Return the entries that a look-up has found, which memory and Redis then know too."""
        entries, provisional = entries_of(rows)
        await self.keep(provisional, are_provisional=True)
        await self.keep(entries)
        return entries | provisional

    async def change(self, work: Callable[[AsyncConnection, Rollups], Awaitable[tuple[T, Collection[str]]]]) -> T:
        """Run a transaction that changes entries, and let the copies of this process forget them after it.

        Other processes learn of it from the change feed, which app/services/cache/corrections.py writes.

        Args:
            work: returns what this returns, and the hashes whose entries have changed. It may run again.

        Raises:
            AppError: what `work` raises, or the database failed.
        """
        done, changed = await write(self._engine, lambda connection: work(connection, self._rollups))
        for each in changed:
            self._copies.forget(each)
        return done

    async def close(self) -> None:
        """Wait for the queries that are under way."""
        await self._reader.close()

    async def _find(self, image_hashes: Sequence[str]) -> dict[str, CachedResult]:
        """Return what exists, and count for each caller where it was, also where several share a query."""
        found = await self._reader.find(image_hashes)
        for image_hash in image_hashes:
            if image_hash in found:
                _, is_in_redis = found[image_hash]
                metrics.count(metrics.LOOKUPS_IN_REDIS if is_in_redis else metrics.LOOKUPS_IN_DATABASE)
        return {image_hash: entry for image_hash, (entry, _) in found.items()}

    async def _fetch(self, image_hashes: list[str]) -> Mapping[str, tuple[CachedResult, bool]]:
        """Return what exists, from Redis or else with one query, and whether it was in Redis."""
        in_redis = await self._copies.find(image_hashes)
        found = {image_hash: (entry, True) for image_hash, entry in in_redis.items()}
        if rest := [each for each in image_hashes if each not in found]:
            found.update((image_hash, (entry, False)) for image_hash, entry in (await self.read(rest)).items())
        return found

    async def read(self, image_hashes: Collection[str]) -> dict[str, CachedResult]:
        """Return the entries that the database has, whatever copies say, which then know them too; raises as `get`."""
        look_up = self.select(image_hashes)
        (rows,) = await run(self._engine, [look_up], writes=False)
        return await self.keep_found(rows)
