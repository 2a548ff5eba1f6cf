"""Votes of users for tests, and the service that counts them."""

from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.services.audit.service import AuditLog
from app.services.cache.service import CacheService
from app.services.feedback.service import Feedback, FeedbackService, Receipt
from app.services.feedback.voter import voter_of
from app.services.request_log.record import Caller
from app.services.request_log.service import RequestLogService
from tests.support.cache_processes import IMAGE


def feedback_on(engine: AsyncEngine, cache: CacheService, *, quorum: int = 3) -> FeedbackService:
    request_log = RequestLogService(engine, ZoneInfo("UTC"))
    return FeedbackService(cache, request_log, AuditLog(engine), quorum=quorum)


async def say(
    service: FeedbackService,
    category: Category,
    user: str | None,
    *,
    address: str | None = "192.0.2.1",
    key_id: int | None = None,
    account_id: int | None = None,
    is_device: bool = False,
    is_sign_up_open: bool = False,
    image_hash: str = IMAGE,
    comment: str | None = None,
) -> Receipt:
    """One user says what the photo shows; without more, from one address without a credential."""
    caller = Caller(user_id=user, ip_address=address, account_id=account_id)
    voter = voter_of(caller, key_id=key_id, is_device=is_device, is_sign_up_open=is_sign_up_open)
    return await service.give(Feedback(category, comment, image_hash), voter)
