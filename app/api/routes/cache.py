"""Cache entries changed by hand; the routes exist only where ADMIN_API_KEY is set."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.api.dependencies import CacheDep, ResourcesDep
from app.api.errors import describe_errors
from app.errors import AdminKeyRequired, CacheEntryNotFound, DatabaseUnavailable, PayloadTooLarge, ServerBusy
from app.schemas.cache import CorrectedEntry, CorrectedEntryResponse, Correction, RemovedEntryResponse
from app.schemas.common import ImageHash
from app.services.signatures.keys import SigningKey

_bearer = HTTPBearer(scheme_name="AdminKey", description="The service's ADMIN_API_KEY.", auto_error=False)


async def require_admin(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    resources: ResourcesDep,
) -> None:
    """Refuse a request that neither has the admin key nor was signed with a key of this scope.

    Raises:
        AdminKeyRequired: no key, or another one.
    """
    signer: SigningKey | None = request.scope["state"].get("signing_key")
    if signer is not None and "admin" in signer.scopes:
        return
    expected = resources.settings.cache.admin_api_key.get_secret_value()
    sent = "" if credentials is None else credentials.credentials
    # In constant time: how long a comparison takes shall not tell how much of a guess was right.
    if not expected or not hmac.compare_digest(sent.encode(), expected.encode()):
        raise AdminKeyRequired


router = APIRouter(prefix="/cache", tags=["cache"], dependencies=[Depends(require_admin)])

HashInPath = Annotated[ImageHash, Path()]
_ERRORS = (AdminKeyRequired, CacheEntryNotFound, DatabaseUnavailable, ServerBusy)


@router.put("/{image_hash}", responses=describe_errors(*_ERRORS, PayloadTooLarge))
async def correct_entry(image_hash: HashInPath, body: Correction, cache: CacheDep) -> CorrectedEntryResponse:
    """Correct the entry of a photo; every process answers with it within seconds, and no model replaces it."""
    entry = await cache.correct(image_hash, body.category, body.description)
    return CorrectedEntryResponse(data=CorrectedEntry.model_validate(entry))


@router.delete("/{image_hash}", responses=describe_errors(*_ERRORS))
async def remove_entry(image_hash: HashInPath, cache: CacheDep) -> RemovedEntryResponse:
    """Remove the entry of a photo; the next upload of it asks the model again."""
    await cache.remove(image_hash)
    return RemovedEntryResponse()
