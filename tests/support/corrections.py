"""Changing entries as an operator does."""

from app.categories import Category
from app.services.audit.service import AuditLog
from app.services.cache.entry import CachedResult
from app.services.cache.service import CacheService
from app.services.feedback.review import Operator, ReviewService

OPERATOR = Operator("key:1", "192.0.2.1")


def review_of(cache: CacheService) -> ReviewService:
    """The review of a process that has this cache."""
    return ReviewService(cache, AuditLog(cache._engine))


async def correct(cache: CacheService, image_hash: str, category: Category, description: str | None) -> CachedResult:
    return await review_of(cache).correct(image_hash, category, description, OPERATOR)


async def remove(cache: CacheService, image_hash: str) -> None:
    await review_of(cache).remove(image_hash, OPERATOR, can_be_undone=False)
