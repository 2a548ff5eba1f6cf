"""The answer of a similar photo in the place of a model's: best effort, before anything is paid."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.clients.base import PreparedPhoto
from app.database.statements import Statement
from app.observability import metrics
from app.services.cache.entry import CachedResult
from app.services.classification.outcomes import Outcome
from app.services.near_duplicates.rows import Neighbour
from app.services.near_duplicates.service import NearDuplicates
from app.services.photos import PhotoPreparer
from app.services.request_log.record import Caller, Similar


class LookedUp(NamedTuple):
    """A photo that is looked up by its SHA-256, and where that is not known by its perceptual hash, if it has one."""

    image_hash: str
    perceptual_hash: int | None


class SimilarPhotos:
    """Finds similar photos, if `near_duplicates` is there to look."""

    def __init__(self, near_duplicates: NearDuplicates | None, preparer: PhotoPreparer) -> None:
        self._near_duplicates = near_duplicates
        self._preparer = preparer

    @property
    def is_on(self) -> bool:
        """Whether similar photos are looked for."""
        return self._near_duplicates is not None

    async def hash_of(self, prepared: PreparedPhoto, caller: Caller) -> int | None:
        """Return the perceptual hash of a photo; None where it has none, or it took too long to compute."""
        return await self._preparer.perceptual_hash(prepared, client=caller.client) if self.is_on else None

    async def look_up(self, perceptual_hash: int | None) -> Outcome | None:
        """Return what is known of a photo with nearly this hash; nothing is stored."""
        neighbour = await self._find(perceptual_hash)
        return None if neighbour is None else _outcome(neighbour)

    async def complete(self, photos: Sequence[LookedUp], entries: Mapping[str, CachedResult]) -> list[Outcome | None]:
        """Return for each photo what its own entry says, or else `look_up`; one without an entry counts as a miss."""
        missed = [photo for photo in photos if photo.image_hash not in entries]
        for _ in missed:
            metrics.count(metrics.LOOKUPS_MISSED)
        near: dict[int, Neighbour] = {}
        values = {photo.perceptual_hash for photo in missed if photo.perceptual_hash is not None}
        if self._near_duplicates is not None and values:
            near = await self._near_duplicates.find_many(list(values))
        outcomes: list[Outcome | None] = []
        for image_hash, perceptual_hash in photos:
            if (entry := entries.get(image_hash)) is not None:
                outcomes.append(Outcome(entry, from_cache=True))
            else:
                neighbour = None if perceptual_hash is None else near.get(perceptual_hash)
                outcomes.append(None if neighbour is None else _outcome(neighbour))
        return outcomes

    async def answer(
        self, image_hash: str, perceptual_hash: int | None, statements: Sequence[Statement] = ()
    ) -> tuple[Outcome | None, bool]:
        """Answer for a photo by a similar one, and store that.

        Args:
            image_hash: the photo.
            perceptual_hash: its own, computed here and not a client's word.
            statements: belong to the transaction that stores it.

        Returns:
            The answer, or None: a model has to be asked; and whether the statements are committed.
        """
        neighbour = await self._find(perceptual_hash)
        if neighbour is None or self._near_duplicates is None:
            return None, False
        entry, is_stored = await self._near_duplicates.adopt(image_hash, neighbour, statements)
        return (None if entry is None else _outcome(neighbour._replace(entry=entry))), is_stored

    async def _find(self, perceptual_hash: int | None) -> Neighbour | None:
        if self._near_duplicates is None or perceptual_hash is None:
            return None
        return await self._near_duplicates.find(perceptual_hash)


def _outcome(neighbour: Neighbour) -> Outcome:
    return Outcome(neighbour.entry, from_cache=True, similar=Similar(neighbour.image_hash, neighbour.distance))
