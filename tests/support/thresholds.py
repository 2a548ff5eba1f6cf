"""Thresholds of the local model for tests, which do not depend on what it says of which picture."""

from collections.abc import Mapping

from app import photo
from app.categories import Category
from app.clients.base import ModelResult, PreparedPhoto
from app.clients.local import LocalClient
from app.clients.thresholds import CategoryThresholds, Measured, Thresholds
from tests.support.model_settings import model_settings

# The name of the local model with the shipped head.
LOCAL_MODEL = LocalClient(model_settings("local")).model
NEVER_SURE = None
ALWAYS_SURE = ALL_STAY = 0.0
NONE_STAYS = 1.0

_MEASURED = Measured(970, 1000, 0.9575, 0.9789)


def thresholds(
    sure_from: float | None = NEVER_SURE,
    *,
    kept_from: Mapping[Category, float] | float = NONE_STAYS,
    target: float = 0.97,
) -> Thresholds:
    """The same for all categories, but for what `kept_from` says."""
    each_kept = kept_from if isinstance(kept_from, Mapping) else dict.fromkeys(Category, kept_from)
    categories = {
        category: CategoryThresholds(
            sure_from=sure_from,
            answered=_MEASURED,
            right=_MEASURED,
            kept_from=each_kept[category],
            missed=Measured(1, 100, 0.0018, 0.0545),
            kept_in_vain=Measured(20, 900, 0.0144, 0.0341),
        )
        for category in Category
    }
    return Thresholds(
        target_precision=target,
        photos=1000,
        sources=50,
        cross_validated=True,
        chosen_at="2026-11-01T00:00:00Z",
        answered=Measured(750, 1000, 0.7223, 0.7758),
        right=_MEASURED,
        categories=categories,
    )


def prepared(data: bytes) -> PreparedPhoto:
    """A photo as the service shows it to models."""
    info = photo.inspect_photo(data, allowed=frozenset(photo.PhotoFormat), max_pixels=50_000_000)
    return PreparedPhoto(photo.prepare_photo(data, info, max_edge=1024, max_bytes=500_000).jpeg)


async def seen_locally(*photos: bytes) -> list[ModelResult]:
    """What the local model says of photos."""
    client = LocalClient(model_settings("local"))
    await client.start()
    try:
        return [await client.classify(prepared(each)) for each in photos]
    finally:
        await client.close()
