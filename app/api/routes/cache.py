"""Cache entries changed by hand, with a key of the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.api.dependencies import OperatorDep, ReviewDep
from app.api.errors import KEY_ERRORS, describe_errors
from app.errors import CacheEntryNotFound, DatabaseUnavailable, PayloadTooLarge, ServerBusy
from app.schemas.cache import CorrectedEntry, CorrectedEntryResponse, Correction, RemovedEntryResponse
from app.schemas.common import ImageHash

router = APIRouter(prefix="/cache", tags=["cache"])

HashInPath = Annotated[ImageHash, Path()]
_ERRORS = (*KEY_ERRORS, CacheEntryNotFound, DatabaseUnavailable, ServerBusy)


@router.put("/{image_hash}", responses=describe_errors(*_ERRORS, PayloadTooLarge))
async def correct_entry(
    image_hash: HashInPath, body: Correction, operator: OperatorDep, review: ReviewDep
) -> CorrectedEntryResponse:
    """Correct the entry of a photo; every process answers with it within seconds.

    Neither a model nor feedback replaces it.
    """
    entry = await review.correct(image_hash, body.category, body.description, operator)
    return CorrectedEntryResponse(data=CorrectedEntry.model_validate(entry))


@router.delete("/{image_hash}", responses=describe_errors(*_ERRORS))
async def remove_entry(image_hash: HashInPath, operator: OperatorDep, review: ReviewDep) -> RemovedEntryResponse:
    """Remove the entry of a photo for good, with its history; the next upload of it asks the model again.

    What a removal that can be undone has left goes too.
    """
    await review.remove(image_hash, operator, can_be_undone=False)
    return RemovedEntryResponse()
