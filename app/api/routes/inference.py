"""Inference: have a model look at a picture of one's library, and see what models said."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from app.api.dependencies import CurrentAccount, InferenceDep, LanguageDep, caller_of
from app.api.errors import describe_errors
from app.api.routes.classify import IMAGE_ERRORS
from app.clients.errors import MODEL_ERRORS
from app.errors import (
    LIMIT_ERRORS,
    AuthenticationRequired,
    DatabaseUnavailable,
    ImageNotFound,
    InvalidToken,
    PayloadTooLarge,
    ResultNotFound,
    ServerBusy,
    TokenExpired,
    UnknownModel,
)
from app.schemas.inference import ID_MAX, InferenceList, InferenceRequest, InferenceResponse

MAX_PAGE = 100

router = APIRouter(prefix="/images/inference", tags=["inference"])

_ERRORS = (AuthenticationRequired, InvalidToken, TokenExpired, DatabaseUnavailable, ServerBusy)


@router.post(
    "",
    responses=describe_errors(
        UnknownModel, *IMAGE_ERRORS, ImageNotFound, *LIMIT_ERRORS, *MODEL_ERRORS, PayloadTooLarge, *_ERRORS
    ),
)
async def infer(
    request: Request,
    body: InferenceRequest,
    account: CurrentAccount,
    inference: InferenceDep,
    language: LanguageDep,
) -> InferenceResponse:
    """Have a model look at one of your pictures; the answer is kept."""
    caller = replace(caller_of(request.scope, None), language=language)
    result = await inference.infer(account.id, body.image_id, body.model_name, caller=caller)
    return InferenceResponse.model_validate(result)


@router.get("", include_in_schema=False)
@router.get("/", responses=describe_errors(*_ERRORS))
async def list_results(
    account: CurrentAccount,
    inference: InferenceDep,
    skip: Annotated[int, Query(ge=0, le=ID_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    image_id: Annotated[int | None, Query(ge=1, le=ID_MAX, description="Of this picture only.")] = None,
) -> InferenceList:
    """Your results, newest first."""
    results, total = await inference.results.page(account.id, skip=skip, limit=limit, image_id=image_id)
    items = [InferenceResponse.model_validate(result) for result in results]
    return InferenceList(items=items, total=total, skip=skip, limit=limit)


@router.get("/{result_id}", responses=describe_errors(ResultNotFound, *_ERRORS))
async def get_result(
    result_id: Annotated[int, Path(ge=1, le=ID_MAX)], account: CurrentAccount, inference: InferenceDep
) -> InferenceResponse:
    """One of your results."""
    return InferenceResponse.model_validate(await inference.results.get(account.id, result_id))
