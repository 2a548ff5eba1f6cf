"""The answer of a similar photo in the place of a model's: best effort, before anything is paid."""

from collections.abc import Collection, Mapping, Sequence

from app.clients.base import PreparedPhoto
from app.database.statements import Statement
from app.services.classification.outcomes import Outcome
from app.services.near_duplicates.rows import Neighbour
from app.services.near_duplicates.service import NearDuplicates
from app.services.photos import PhotoPreparer
from app.services.request_log.record import Caller, Similar


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
        return (await self.look_up_many([perceptual_hash])).get(perceptual_hash)

    async def look_up_many(self, perceptual_hashes: Collection[int | None]) -> Mapping[int | None, Outcome]:
        """Return what is known of photos with nearly these hashes, by hash; nothing is stored."""
        values = [value for value in perceptual_hashes if value is not None]
        if self._near_duplicates is None or not values:
            return {}
        return {value: _outcome(near) for value, near in (await self._near_duplicates.find_many(values)).items()}

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
