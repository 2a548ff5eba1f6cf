"""What a batch is made of: photos as models are shown them, without those that need no model."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.clients.base import ModelClient, PreparedPhoto
from app.clients.errors import ModelError, ModelWeightsMissing
from app.errors import ImageNotFound, InvalidRequest, ServerBusy
from app.services.batches.rows import Item
from app.services.cache.service import CacheService
from app.services.classification.local_first import LocalFirst
from app.services.classification.similar import SimilarPhotos
from app.services.inference.service import InferenceService
from app.services.library.service import LibraryService
from app.services.photos import PhotoPreparer
from app.services.request_log.record import Caller, user_id_of_account


@dataclass(frozen=True, slots=True)
class BatchPhotos:
    """Reads and prepares library pictures for `client`; `local_first` looks at them before."""

    client: ModelClient
    local_first: LocalFirst | None
    library: LibraryService
    inference: InferenceService
    cache: CacheService
    lasting_models: Sequence[str]
    preparer: PhotoPreparer
    similar: SimilarPhotos

    async def prepare(self, item: Item) -> PreparedPhoto | None:
        """Return a photo as the model is shown it; None where its task needs no batch.

        That is where it is known, or a similar one is, where the local model answers or has to look first and fails at
        it, and where it is none that models are shown: its task says so.

        Raises:
            ServerBusy: try again later; also where the local model has to look first and cannot at the moment.
            DatabaseUnavailable, StorageUnavailable: try again later.
        """
        if await self.cache.get(item.image_hash) is not None:
            return None
        if not self.inference.shares_results and await self.inference.results.latest(
            item.image_hash, self.lasting_models, account_id=item.user_id
        ):
            return None
        settings = self.client.settings
        caller = Caller(user_id=user_id_of_account(item.user_id), account_id=item.user_id)
        try:
            image = await self.library.get(item.user_id, item.image_id)
            async with self.inference.opened(image, caller) as upload:
                info = self.preparer.inspect(upload.data)
                prepared = await self.preparer.prepare(
                    upload.data,
                    info,
                    max_edge=settings.image_max_edge_pixels,
                    client=caller.client,
                    language=item.language or settings.default_language,
                )
        except (InvalidRequest, ImageNotFound):
            return None
        if self.inference.shares_results and self.similar.is_on:
            perceptual_hash = await self.similar.hash_of(prepared, caller)
            if await self.similar.look_up(perceptual_hash) is not None:
                return None
        return prepared if await self._may_be_sent(prepared) else None

    async def _may_be_sent(self, prepared: PreparedPhoto) -> bool:
        if self.local_first is None:
            return True
        try:
            said = await self.local_first.client.classify(prepared)
        except ModelError as error:
            passes = error.retryable or error.another_may_answer
            if passes and not isinstance(error, ModelWeightsMissing):
                # It is about the model and not about this photo, which can wait.
                raise ServerBusy(retry_after_seconds=error.retry_after_seconds) from error
            return False
        return self.local_first.judge(said) is None
