"""What operators do to entries, one or many: correct, remove, have asked again, set votes aside, undo.

Each is a transaction of its own, is in the history of the entry and in the audit log, and reaches all copies.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from loguru import logger
from sqlalchemy.ext.asyncio import AsyncConnection

from app.categories import Category
from app.errors import AppError, DatabaseUnavailable, InvalidRequest, ServerBusy
from app.observability import metrics
from app.services.audit.service import Action, AuditLog
from app.services.cache.corrections import correct_entry, locked_entry, mark_entry, remove_entry, restore_entry
from app.services.cache.entry import FEEDBACK_MODEL, MANUAL_MODEL, CachedResult
from app.services.cache.service import CacheService
from app.services.feedback.votes import dismiss_votes
from app.services.request_log.rollups import Rollups

_Work = Callable[[AsyncConnection, Rollups], Awaitable[tuple[Any, Collection[str]]]]


class ReviewAction(StrEnum):
    """What is done to the chosen entries."""

    CORRECT = "correct"
    REMOVE = "remove"
    ASK_AGAIN = "ask_again"
    DISMISS = "dismiss"
    UNDO = "undo"


_AUDITED = {
    ReviewAction.CORRECT: Action.ENTRY_CORRECTED,
    ReviewAction.REMOVE: Action.ENTRY_REMOVED,
    ReviewAction.ASK_AGAIN: Action.ENTRY_MARKED,
    ReviewAction.DISMISS: Action.FEEDBACK_DISMISSED,
    ReviewAction.UNDO: Action.ENTRY_RESTORED,
}


@dataclass(frozen=True, slots=True)
class Operator:
    """Who does it, as the audit log says it, and from which address."""

    actor: str
    address: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of one entry; `error` is the code of what went wrong, None where nothing did."""

    image_hash: str
    error: str | None = None


class ReviewService:
    """Changes entries for operators."""

    def __init__(self, cache: CacheService, audit: AuditLog) -> None:
        self._cache = cache
        self._audit = audit

    async def correct(
        self, image_hash: str, category: Category, description: str | None, operator: Operator
    ) -> CachedResult:
        """Replace an entry by what an operator says; votes for another category count no longer.

        It stays until the next correction: neither a model nor users replace it.

        Raises:
            CacheEntryNotFound: there is no entry.
        """
        entry = CachedResult(category, 1.0, description, MANUAL_MODEL)

        async def work(connection: AsyncConnection, rollups: Rollups) -> tuple[None, Collection[str]]:
            changed = await correct_entry(connection, rollups, image_hash, entry, actor=operator.actor)
            await dismiss_votes(connection, image_hash, right=category)
            return None, changed

        await self._do(ReviewAction.CORRECT, image_hash, operator, work, {"category": category})
        return entry

    async def remove(self, image_hash: str, operator: Operator, *, can_be_undone: bool) -> None:
        """Remove an entry, and its aliases; what cannot be undone leaves nothing of it in the history, also of one
        that was removed before.

        Raises:
            CacheEntryNotFound: there is no entry; nor, for what cannot be undone, a history or a comment.
        """

        async def work(connection: AsyncConnection, rollups: Rollups) -> tuple[None, Collection[str]]:
            return None, await remove_entry(
                connection, rollups, image_hash, actor=operator.actor, can_be_undone=can_be_undone
            )

        await self._do(ReviewAction.REMOVE, image_hash, operator, work)

    async def ask_again(self, image_hash: str, operator: Operator) -> None:
        """Have the next upload of the photo ask the model; raises CacheEntryNotFound."""

        async def work(connection: AsyncConnection, rollups: Rollups) -> tuple[None, Collection[str]]:
            return None, await mark_entry(connection, image_hash, actor=operator.actor)

        await self._do(ReviewAction.ASK_AGAIN, image_hash, operator, work)

    async def dismiss(self, image_hash: str, operator: Operator) -> None:
        """Say that the entry is right: votes for another category count no longer; raises CacheEntryNotFound."""

        async def work(connection: AsyncConnection, rollups: Rollups) -> tuple[int, Collection[str]]:
            entry = await locked_entry(connection, image_hash)
            return await dismiss_votes(connection, image_hash, right=entry.category), ()

        await self._do(ReviewAction.DISMISS, image_hash, operator, work)

    async def undo(self, image_hash: str, operator: Operator) -> None:
        """Undo the last change by people; of one by users, the votes that would make it again count no longer.

        Raises:
            NothingToUndo: there is none, or the entry has become another since.
        """

        async def work(connection: AsyncConnection, rollups: Rollups) -> tuple[None, Collection[str]]:
            changed, undone = await restore_entry(connection, rollups, image_hash, actor=operator.actor)
            if undone == FEEDBACK_MODEL:
                entry = await locked_entry(connection, image_hash)
                await dismiss_votes(connection, image_hash, right=entry.category)
            return None, changed

        await self._do(ReviewAction.UNDO, image_hash, operator, work)

    async def act(
        self,
        action: ReviewAction,
        image_hashes: Sequence[str],
        operator: Operator,
        *,
        category: Category | None = None,
        description: str | None = None,
    ) -> list[Outcome]:
        """Do the same to many entries, one after the other; one that fails keeps no other from its turn.

        Args:
            action: what is done.
            image_hashes: of the photos.
            operator: who does it.
            category: of a correction, which needs one.
            description: of a correction; None: the entries have none.

        Raises:
            InvalidRequest: a correction without a category.
            DatabaseUnavailable, ServerBusy: what was done by then stays so.
        """
        if action is ReviewAction.CORRECT and category is None:
            raise InvalidRequest("body.category: a correction needs one.")
        outcomes: list[Outcome] = []
        for image_hash in dict.fromkeys(image_hashes):
            try:
                match action:
                    case ReviewAction.CORRECT if category is not None:
                        await self.correct(image_hash, category, description, operator)
                    case ReviewAction.REMOVE:
                        await self.remove(image_hash, operator, can_be_undone=True)
                    case ReviewAction.ASK_AGAIN:
                        await self.ask_again(image_hash, operator)
                    case ReviewAction.DISMISS:
                        await self.dismiss(image_hash, operator)
                    case ReviewAction.UNDO:
                        await self.undo(image_hash, operator)
            except (DatabaseUnavailable, ServerBusy):
                raise
            except AppError as error:
                outcomes.append(Outcome(image_hash, error.code))
            else:
                outcomes.append(Outcome(image_hash))
        return outcomes

    async def _do(
        self,
        action: ReviewAction,
        image_hash: str,
        operator: Operator,
        work: _Work,
        details: dict[str, Any] | None = None,
    ) -> None:
        await self._cache.change(work)
        metrics.count(metrics.CORRECTIONS.labels("operator", action.value))
        logger.info("cache entry {}: {} by {}", image_hash, _AUDITED[action].value, operator.actor)
        await self._audit.record(_AUDITED[action], operator.actor, image_hash, operator.address, details)
