"""What users say of answers."""

from fastapi import APIRouter, Request

from app.api.dependencies import CallerDep, FeedbackDep, ResourcesDep, address_of, voter_in
from app.api.errors import describe_errors
from app.errors import (
    CacheEntryNotFound,
    DatabaseUnavailable,
    InvalidToken,
    PayloadTooLarge,
    RequestNotFound,
    ServerBusy,
    TokenExpired,
)
from app.schemas.feedback import FeedbackReceipt, FeedbackRequest, FeedbackResponse

router = APIRouter(prefix="/feedback", tags=["feedback"])

_ERRORS = describe_errors(
    InvalidToken,
    TokenExpired,
    RequestNotFound,
    CacheEntryNotFound,
    PayloadTooLarge,
    DatabaseUnavailable,
    ServerBusy,
)


@router.post("", responses=_ERRORS)
async def give_feedback(
    request: Request, body: FeedbackRequest, caller: CallerDep, feedback: FeedbackDep, resources: ResourcesDep
) -> FeedbackResponse:
    """Say what a photo really shows, or that the answer was right; the same user's next word replaces it.

    When enough different users agree that an entry is wrong, it is corrected for all. Callers may send a device token,
    or the token of an account, in the place of an API key.
    """
    caller = caller.or_user(body.user_id)
    request.state.user = caller.user_id
    voter, has_key = voter_in(request.scope, caller, is_sign_up_open=resources.settings.is_sign_up_open)
    if not has_key:
        await resources.rate_limits.count_feedback(
            address_of(request.scope), resources.settings.feedback.per_minute_per_address
        )
    receipt = await feedback.give(body.feedback(), voter)
    return FeedbackResponse(data=FeedbackReceipt.model_validate(receipt))
