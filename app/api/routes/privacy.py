"""What is kept of a user: to be told, and to be forgotten, with a key of the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import StreamingResponse

from app.api.dependencies import AdminKey, AuditDep, PrivacyDep, address_of
from app.api.errors import KEY_ERRORS, describe_errors
from app.errors import DatabaseUnavailable, ServerBusy
from app.schemas.privacy import ForgottenUserResponse, KeptUserId
from app.services.audit.service import Action

router = APIRouter(prefix="/users", tags=["privacy"])

# An id may have slashes in it.
_PATH = "/{user_id:path}/data"
UserIdInPath = Annotated[KeptUserId, Path()]
_ERRORS = describe_errors(*KEY_ERRORS, DatabaseUnavailable, ServerBusy)


@router.get(_PATH, response_class=StreamingResponse, responses=_ERRORS)
async def export_user(
    request: Request, user_id: UserIdInPath, key: AdminKey, privacy: PrivacyDep, audit: AuditDep
) -> StreamingResponse:
    """All that is kept of a user, as one JSON document; it is cut off where the database fails in the midst of it."""
    document = await privacy.export(user_id)
    await audit.record(Action.USER_EXPORTED, key.actor, user_id, address_of(request.scope))
    return StreamingResponse(document, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.delete(_PATH, responses=_ERRORS)
async def forget_user(
    request: Request, user_id: UserIdInPath, key: AdminKey, privacy: PrivacyDep, audit: AuditDep
) -> ForgottenUserResponse:
    """Forget a user; the totals of the past stay. It may be asked again, also where an answer did not arrive."""
    forgotten = await privacy.forget(user_id)
    # Without the id, which is forgotten.
    await audit.record(Action.USER_FORGOTTEN, key.actor, None, address_of(request.scope))
    return ForgottenUserResponse.model_validate({"data": forgotten}, from_attributes=True)
