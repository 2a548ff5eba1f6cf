"""The nearest copies of cache entries: a bounded dictionary in each process, the least recently used leaves first.

It knows nothing of changes; `CacheTiers` decides what may enter and when it counts.
"""

from collections import OrderedDict

from app.services.cache.entry import CachedResult


class MemoryCache:
    """At most `max_entries` entries by hash (64 lower-case hex digits); with 0 it stays empty.

    Entries are kept as they are answered, and hashes as text: packing both saves a quarter of the memory, but
    a hit would pay for it each time (docs/performance.md).
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[str, CachedResult] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_on(self) -> bool:
        return self._max_entries > 0

    def get(self, image_hash: str) -> CachedResult | None:
        """Return an entry, which then leaves last, or None."""
        entry = self._entries.get(image_hash)
        if entry is not None:
            self._entries.move_to_end(image_hash)
        return entry

    def put(self, image_hash: str, entry: CachedResult) -> None:
        """Keep an entry, in place of the least recently used one when there is no room."""
        self._entries[image_hash] = entry
        self._entries.move_to_end(image_hash)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def forget(self, image_hash: str) -> None:
        """Drop an entry if it is here."""
        self._entries.pop(image_hash, None)

    def clear(self) -> None:
        """Drop all entries."""
        self._entries.clear()
