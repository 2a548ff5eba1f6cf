"""Look-up of one logged request: a user can quote its id to support."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.api.dependencies import RequestLogDep
from app.api.errors import describe_errors
from app.errors import DatabaseUnavailable, RequestNotFound, ServerBusy
from app.schemas.common import EXAMPLE_REQUEST_ID
from app.schemas.requests import LoggedRequestResponse

router = APIRouter(prefix="/requests", tags=["requests"])


@router.get("/{request_id}", responses=describe_errors(RequestNotFound, DatabaseUnavailable, ServerBusy))
async def get_request(
    request_id: Annotated[str, Path(max_length=64, examples=[EXAMPLE_REQUEST_ID])], request_log: RequestLogDep
) -> LoggedRequestResponse:
    """What was answered to the request with this id."""
    return LoggedRequestResponse(data=await request_log.find(request_id))
