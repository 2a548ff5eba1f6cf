"""A known photo is described in another language: by one call of the model, within the upload that asks for it.

The classification stays as it is; only the description of the answer is kept. The call goes the way of any other one: a
lease (here of the photo and the language), the limits and budgets of the caller, the ledger. Whatever goes wrong, the
caller gets the description that there is.
"""

import hashlib
from collections.abc import Collection
from dataclasses import replace

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clients.base import CASCADE_MODEL_PREFIX, LOCAL_MODEL_PREFIX, LOCAL_ONLY_MODEL_PREFIX
from app.clients.errors import ModelRefused
from app.config.model import ModelSettings
from app.database.statements import execute
from app.errors import AppError
from app.language.accept import Language
from app.runtime.background import SingleFlight
from app.services.cache.aliases import insert_description
from app.services.cache.entry import PEOPLE, CachedResult
from app.services.cache.service import CacheService
from app.services.classification.asking import ModelAsking, Turn
from app.services.classification.outcomes import Outcome
from app.services.classification.store import ClassificationStore
from app.services.photos import PhotoPreparer, UploadedPhoto
from app.services.request_log.record import Caller
from app.services.request_log.rollups import Rollups
from app.services.spending.bill import Bill

# The local model says what it has to say in both languages at once.
_LOCAL = (LOCAL_MODEL_PREFIX, CASCADE_MODEL_PREFIX, LOCAL_ONLY_MODEL_PREFIX)


class Translating:
    """Has known photos described in the language of the caller, where DESCRIPTION_LANGUAGE=auto.

    Args:
        settings: say whether, and of which categories no photo may leave the server.
        cache: keeps the descriptions.
        store: gives the leases.
        asking: shows photos to the models.
        preparer: prepares them.
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        cache: CacheService,
        store: ClassificationStore,
        asking: ModelAsking,
        preparer: PhotoPreparer,
    ) -> None:
        self._cache = cache
        self._store = store
        self._asking = asking
        self._preparer = preparer
        # Without the local model as a fallback: what it says of a photo is not kept beside a paid answer.
        self._chain = [
            each
            for each in asking.chain
            if each.client.takes_language and (each.judge or not each.client.model.startswith(LOCAL_MODEL_PREFIX))
        ]
        is_any_asked = any(each.judge is None for each in self._chain)
        self._is_on = settings.fixed_language is None and is_any_asked
        self._kept = settings.local_only_categories
        self._calls: SingleFlight[tuple[str, Language], Outcome] = SingleFlight()

    def lacks(self, outcome: Outcome, wanted: Language | None) -> bool:
        """Whether a model is asked to describe this photo in the language that is wanted.

        It is not for what people or the local model say, nor for a photo that must not leave the server.
        """
        entry = outcome.entry
        return (
            self._is_on
            and wanted is not None
            and outcome.similar is None
            and entry.spoken not in {None, wanted}
            and wanted not in (entry.translations or ())
            and not entry.is_stale
            and entry.category not in self._kept
            and entry.model not in PEOPLE
            and not entry.model.startswith(_LOCAL)
        )

    async def complete(self, outcome: Outcome, upload: UploadedPhoto, caller: Caller) -> Outcome:
        """Return what is known of a photo with its description in the language of the caller, if there is one now.

        Simultaneous uploads of one photo share one call, which a client that hangs up does not cancel.
        """
        if (wanted := caller.language) is None:
            return outcome
        completed, is_shared = await self._calls.run(
            (upload.sha256, wanted), lambda: self._try(outcome, upload, caller, wanted)
        )
        return completed._replace(from_cache=outcome.from_cache and (completed.from_cache or is_shared))

    async def close(self) -> None:
        """Wait for the calls that are under way: they are paid for."""
        await self._calls.wait()

    async def _try(self, outcome: Outcome, upload: UploadedPhoto, caller: Caller, wanted: Language) -> Outcome:
        try:
            return await self._find_or_ask(outcome, upload, caller, wanted)
        except AppError as error:
            logger.info("photo {} is not described in {} ({})", upload.sha256[:12], wanted, error.code)
            return outcome

    async def _find_or_ask(self, outcome: Outcome, upload: UploadedPhoto, caller: Caller, wanted: Language) -> Outcome:
        info = self._preparer.inspect(upload.data)
        turn = Turn(self._chain, self._asking.turn().deadline)
        bill = self._asking.bill(turn.first(upload.prepaid), caller, upload.prepaid)
        lease = hashlib.sha256(f"{upload.sha256} {wanted}".encode()).hexdigest()
        async with self._store.turn(lease, turn.deadline, bill):
            # The owner of the lease before us may have stored one.
            entry = (await self._cache.read([upload.sha256])).get(upload.sha256)
            if entry is None or not self.lacks(outcome._replace(entry=entry), wanted):
                return outcome if entry is None else outcome._replace(entry=entry)
            prepared = await self._asking.prepare(turn, upload, info, caller)
            text, model = None, turn.first(upload.prepaid).client.model
            try:
                given = await self._asking.ask(turn, prepared, caller, bill, lease, upload.prepaid)
            except ModelRefused:
                # It would refuse the photo each time.
                pass
            else:
                model = given.model
                # One that takes the photo for something else describes that.
                if given.result.category is entry.category and given.result.language is wanted:
                    text = given.result.description
            await self._keep(upload.sha256, entry, wanted, text, model, lease, bill)
        described = replace(entry, translations={**(entry.translations or {}), wanted: text})
        return Outcome(described, from_cache=False)

    async def _keep(
        self,
        image_hash: str,
        entry: CachedResult,
        wanted: Language,
        text: str | None,
        model: str,
        lease: str,
        bill: Bill,
    ) -> None:
        """Store a description with what it cost, and end the lease.

        Where the database does not take it, it is lost; what it cost is written down later, as of a call that failed.
        """
        statements = self._store.release_statements(lease, bill)

        async def work(connection: AsyncConnection, _: Rollups) -> tuple[None, Collection[str]]:
            changed = await insert_description(
                connection, image_hash, entry, wanted, text, model=model, cost_micros=bill.cost_micros
            )
            for statement in statements:
                await execute(connection, statement)
            return None, changed

        try:
            await self._cache.change(work)
        except AppError as error:
            logger.warning("the description of photo {} is not stored ({})", image_hash[:12], error.code)
        else:
            self._store.released_with(lease, bill)
