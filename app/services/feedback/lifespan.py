"""What a process needs of feedback: the counting of votes, the review, and that what is old is deleted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.settings import Settings
from app.database.retention import delete_in_batches, delete_regularly
from app.runtime.background import running
from app.services.audit.service import AuditLog
from app.services.cache.corrections import forget_some_removed
from app.services.cache.service import CacheService
from app.services.feedback.entries import ReviewedEntries
from app.services.feedback.review import ReviewService
from app.services.feedback.service import FeedbackService
from app.services.feedback.votes import delete_votes_before
from app.services.request_log.service import RequestLogService

RETENTION_INTERVAL_SECONDS = 24 * 3600
# A removal can be undone for so long.
REMOVED_KEPT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class FeedbackServices:
    """What routes use."""

    votes: FeedbackService
    review: ReviewService
    entries: ReviewedEntries


@asynccontextmanager
async def open_feedback(
    settings: Settings, engine: AsyncEngine, *, cache: CacheService, request_log: RequestLogService, audit: AuditLog
) -> AsyncIterator[FeedbackServices]:
    """Take feedback and review entries for the length of the block; what is old is deleted daily."""
    retention_days = settings.statistics.log_retention_days

    async def delete_old() -> None:
        now = utc_now()
        await forget_removed(engine, now - REMOVED_KEPT)
        if retention_days:
            cutoff = now - timedelta(days=retention_days)
            await delete_in_batches(engine, lambda connection, rows: delete_votes_before(connection, cutoff, rows))

    sweep = delete_regularly(delete_old, seconds=RETENTION_INTERVAL_SECONDS, what="old feedback and removed entries")
    async with running(sweep, name="feedback-retention"):
        yield FeedbackServices(
            FeedbackService(cache, request_log, audit, quorum=settings.feedback.quorum),
            ReviewService(cache, audit),
            ReviewedEntries(engine),
        )


async def forget_removed(engine: AsyncEngine, cutoff: datetime) -> int:
    """Delete what is left of entries that were removed before `cutoff`, up to the removal; return of how many."""
    return await delete_in_batches(engine, partial(forget_some_removed, cutoff=cutoff))
