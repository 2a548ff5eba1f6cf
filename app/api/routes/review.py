"""Entries as operators see them, and what operators do to them, with a key of the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.api.dependencies import EntriesDep, OperatorDep, ReviewDep
from app.api.errors import KEY_ERRORS, describe_errors
from app.categories import Category
from app.config.model import MODEL_NAME_MAX_LENGTH
from app.errors import CacheEntryNotFound, DatabaseUnavailable, PayloadTooLarge, ServerBusy
from app.schemas.common import ImageHash
from app.schemas.review import EntryDetailsResponse, ReviewedEntriesResponse, ReviewRequest, ReviewResponse
from app.services.feedback.entries import Filters

MAX_ENTRIES = 200
SEARCH_MAX_CHARACTERS = 200

router = APIRouter(prefix="/review", tags=["review"])

_ERRORS = (*KEY_ERRORS, DatabaseUnavailable, ServerBusy)
_Limit = Annotated[int, Query(ge=1, le=MAX_ENTRIES, description="How many at the most.")]
_Before = Annotated[
    int | None, Query(ge=1, le=2**63 - 1, description="`next_before` of the page before; left out: the first page.")
]


@router.get("/entries", responses=describe_errors(*_ERRORS))
async def list_entries(
    entries: EntriesDep,
    operator: OperatorDep,
    category: Category | None = None,
    model: Annotated[
        str | None,
        Query(
            min_length=1, max_length=MODEL_NAME_MAX_LENGTH, description="That gave the answer; or `manual`, `feedback`."
        ),
    ] = None,
    below: Annotated[float | None, Query(ge=0, le=1, description="Only confidences below this.")] = None,
    disputed: Annotated[bool, Query(description="Only those of which a user says another category.")] = False,
    text: Annotated[
        str | None,
        Query(
            alias="q",
            max_length=SEARCH_MAX_CHARACTERS,
            description="A hash or the first 8 digits of one and more, a request id, or a part of a description.",
        ),
    ] = None,
    before: _Before = None,
    limit: _Limit = 50,
) -> ReviewedEntriesResponse:
    """Entries, the newest first. There is more while `next_before` is not null, also after a page with few of them."""
    filters = Filters(category, model, below, disputed, text)
    return ReviewedEntriesResponse(data=await entries.page(filters, before=before, limit=limit))


@router.get("/entries/{image_hash}", responses=describe_errors(*_ERRORS, CacheEntryNotFound))
async def get_entry(
    image_hash: Annotated[ImageHash, Path()], entries: EntriesDep, operator: OperatorDep
) -> EntryDetailsResponse:
    """One entry with its history and what users have written; also after its removal, for a week."""
    return EntryDetailsResponse(data=await entries.details(image_hash))


@router.post("/actions", responses=describe_errors(*_ERRORS, PayloadTooLarge))
async def act(body: ReviewRequest, review: ReviewDep, operator: OperatorDep) -> ReviewResponse:
    """Correct, remove, have asked again, confirm or undo, for up to 100 photos; one that fails stops no other."""
    outcomes = await review.act(
        body.action, body.image_hashes, operator, category=body.category, description=body.description
    )
    return ReviewResponse(data=outcomes)
