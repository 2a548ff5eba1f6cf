"""Takes what users say of answers, and corrects an entry when enough different ones agree that it is wrong."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.clients.base import MARKED_MODEL_PREFIX
from app.errors import InvalidRequest
from app.observability import metrics
from app.services.audit.service import Action, AuditLog
from app.services.cache.corrections import correct_entry, locked_entry
from app.services.cache.entry import CONFIDENCE_DIGITS, FEEDBACK_MODEL, MANUAL_MODEL, CachedResult
from app.services.cache.service import CacheService
from app.services.feedback.voter import Voter
from app.services.feedback.votes import Vote, put_vote, support_of
from app.services.request_log.rollups import Rollups
from app.services.request_log.service import LoggedRequest, RequestLogService


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a user says; of the photo with this hash, or of the one that was answered in this request."""

    category: Category
    comment: str | None = None
    image_hash: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What has become of it.

    `replaced`: the user had said something of the photo before. `agrees`: that is what the entry said. `corrected`:
    with it there were enough, and the entry was corrected.
    """

    replaced: bool
    agrees: bool
    corrected: bool


class FeedbackService:
    """Counts votes.

    Args:
        cache: whose entries are corrected.
        request_log: where request ids are looked up.
        audit: is told of corrections.
        quorum: how many different users have to agree; 0: users alone never correct an entry.
    """

    def __init__(self, cache: CacheService, request_log: RequestLogService, audit: AuditLog, *, quorum: int) -> None:
        self._cache = cache
        self._request_log = request_log
        self._audit = audit
        self._quorum = quorum

    async def give(self, feedback: Feedback, voter: Voter) -> Receipt:
        """Store a vote in the place of the user's earlier one, and correct the entry if that was the last one needed.

        Raises:
            InvalidRequest: neither a hash nor a request id, or they are not of one photo.
            RequestNotFound, CacheEntryNotFound: there is no such request in the log, or no entry of the photo.
            DatabaseUnavailable, ServerBusy: nothing was stored.
        """
        logged = None
        if feedback.request_id is not None:
            logged = await self._request_log.find(feedback.request_id)
        image_hash = feedback.image_hash or (None if logged is None else logged.image_hash)
        if image_hash is None:
            raise InvalidRequest("Send request_id or image_hash.")
        if logged is not None and logged.image_hash != image_hash:
            raise InvalidRequest("request_id is not of the photo that image_hash names.")
        receipt, support = await self._cache.change(
            partial(self._store, feedback=feedback, image_hash=image_hash, voter=voter, logged=logged)
        )
        metrics.count(metrics.FEEDBACK_AGREES if receipt.agrees else metrics.FEEDBACK_DISAGREES)
        if receipt.corrected:
            metrics.count(metrics.CORRECTED_BY_USERS)
            logger.info("cache entry {} was corrected to {} by {} users", image_hash, feedback.category.value, support)
            details = {"category": feedback.category, "users": support}
            await self._audit.record(Action.ENTRY_CORRECTED, FEEDBACK_MODEL, image_hash, details=details)
        return receipt

    async def _store(
        self,
        connection: AsyncConnection,
        rollups: Rollups,
        *,
        feedback: Feedback,
        image_hash: str,
        voter: Voter,
        logged: LoggedRequest | None,
    ) -> tuple[tuple[Receipt, int], Collection[str]]:
        entry = await locked_entry(connection, image_hash)
        model = entry.model.removeprefix(MARKED_MODEL_PREFIX)
        answered = (entry.category, model) if logged is None else (logged.category, logged.model or model)
        vote = Vote(image_hash, feedback.category, feedback.comment, *answered)
        is_new = await put_vote(connection, voter, vote)
        support = await support_of(connection, image_hash)
        theirs = support.pop(feedback.category, 0)
        is_enough = (
            feedback.category is not entry.category
            and entry.model != MANUAL_MODEL
            and 0 < self._quorum <= theirs
            # Also more than say what the entry says: it does not swing from one quorum to the next.
            and theirs > max(support.values(), default=0)
        )
        receipt = Receipt(not is_new, feedback.category is entry.category, is_enough)
        if not is_enough:
            return (receipt, theirs), ()
        confidence = round(theirs / (theirs + support.total()), CONFIDENCE_DIGITS)
        # The old description was that of what the photo does not show.
        corrected = CachedResult(feedback.category, confidence, None, FEEDBACK_MODEL)
        changed = await correct_entry(connection, rollups, image_hash, corrected, actor=FEEDBACK_MODEL)
        return (receipt, theirs), changed
