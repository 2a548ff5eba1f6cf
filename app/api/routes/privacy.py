"""What is kept of a user: to be told, and to be forgotten; the routes exist only where ADMIN_API_KEY is set."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from fastapi.responses import StreamingResponse

from app.api.dependencies import PrivacyDep
from app.api.errors import describe_errors
from app.api.routes.cache import require_admin
from app.errors import AdminKeyRequired, DatabaseUnavailable, ServerBusy
from app.schemas.privacy import ForgottenUserResponse, KeptUserId

router = APIRouter(prefix="/users", tags=["privacy"], dependencies=[Depends(require_admin)])

# An id may have slashes in it.
_PATH = "/{user_id:path}/data"
UserIdInPath = Annotated[KeptUserId, Path()]
_ERRORS = describe_errors(AdminKeyRequired, DatabaseUnavailable, ServerBusy)


@router.get(_PATH, response_class=StreamingResponse, responses=_ERRORS)
async def export_user(user_id: UserIdInPath, privacy: PrivacyDep) -> StreamingResponse:
    """All that is kept of a user, as one JSON document; it is cut off where the database fails in the midst of it."""
    return StreamingResponse(
        await privacy.export(user_id), media_type="application/json", headers={"Cache-Control": "no-store"}
    )


@router.delete(_PATH, responses=_ERRORS)
async def forget_user(user_id: UserIdInPath, privacy: PrivacyDep) -> ForgottenUserResponse:
    """Forget a user; the totals of the past stay. It may be asked again, also where an answer did not arrive."""
    return ForgottenUserResponse.model_validate({"data": await privacy.forget(user_id)}, from_attributes=True)
