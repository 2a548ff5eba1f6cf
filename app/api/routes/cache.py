"""Cache entries changed by hand, with a key of the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from app.api.dependencies import AdminKey, AuditDep, CacheDep, address_of
from app.api.errors import KEY_ERRORS, describe_errors
from app.errors import CacheEntryNotFound, DatabaseUnavailable, PayloadTooLarge, ServerBusy
from app.schemas.cache import CorrectedEntry, CorrectedEntryResponse, Correction, RemovedEntryResponse
from app.schemas.common import ImageHash
from app.services.audit.service import Action

router = APIRouter(prefix="/cache", tags=["cache"])

HashInPath = Annotated[ImageHash, Path()]
_ERRORS = (*KEY_ERRORS, CacheEntryNotFound, DatabaseUnavailable, ServerBusy)


@router.put("/{image_hash}", responses=describe_errors(*_ERRORS, PayloadTooLarge))
async def correct_entry(
    request: Request, image_hash: HashInPath, body: Correction, key: AdminKey, cache: CacheDep, audit: AuditDep
) -> CorrectedEntryResponse:
    """Correct the entry of a photo; every process answers with it within seconds, and no model replaces it."""
    entry = await cache.correct(image_hash, body.category, body.description)
    address = address_of(request.scope)
    await audit.record(Action.ENTRY_CORRECTED, key.actor, image_hash, address, {"category": body.category})
    return CorrectedEntryResponse(data=CorrectedEntry.model_validate(entry))


@router.delete("/{image_hash}", responses=describe_errors(*_ERRORS))
async def remove_entry(
    request: Request, image_hash: HashInPath, key: AdminKey, cache: CacheDep, audit: AuditDep
) -> RemovedEntryResponse:
    """Remove the entry of a photo; the next upload of it asks the model again."""
    await cache.remove(image_hash)
    await audit.record(Action.ENTRY_REMOVED, key.actor, image_hash, address_of(request.scope))
    return RemovedEntryResponse()
