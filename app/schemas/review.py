"""Bodies of what operators see of entries, and do to them."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.categories import Category
from app.clients.llm.parsing import DESCRIPTION_MAX_CHARACTERS, clean_text
from app.schemas.common import EXAMPLE_HASH, EXAMPLE_MODEL, EXAMPLE_TIMESTAMP, DataResponse, ImageHash
from app.services.feedback.entries import EntryDetails, Page
from app.services.feedback.review import Outcome, ReviewAction

MAX_HASHES = 100

_ENTRY: dict[str, Any] = {
    "image_hash": EXAMPLE_HASH,
    "category": "foods",
    "confidence": 0.5512,
    "confidence_source": "calibrated",
    "description": "一只坐在窗台上的橘猫",
    "model": EXAMPLE_MODEL,
    "is_marked": False,
    "similar_to": None,
    "hit_count": 7,
    "created_at": EXAMPLE_TIMESTAMP,
    "last_hit_at": EXAMPLE_TIMESTAMP,
    "opinions": [{"category": "pets", "voters": 2}],
}
_CHANGE: dict[str, Any] = {
    "changed_at": EXAMPLE_TIMESTAMP,
    "action": "corrected",
    "actor": "feedback",
    "category_before": "foods",
    "model_before": EXAMPLE_MODEL,
    "description_before": None,
    "category_after": "pets",
    "model_after": "feedback",
    "undone_at": EXAMPLE_TIMESTAMP,
}
_COMMENT: dict[str, Any] = {
    "category": "pets",
    "text": "这是我的猫",
    "created_at": EXAMPLE_TIMESTAMP,
    "is_dismissed": False,
}


def _example(data: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [{"success": True, "data": data}]})


def _clean(value: str | None) -> str | None:
    return None if value is None else clean_text(value, DESCRIPTION_MAX_CHARACTERS) or None


class ReviewedEntriesResponse(DataResponse[Page]):
    model_config = _example({"entries": [_ENTRY], "next_before": None})


class EntryDetailsResponse(DataResponse[EntryDetails]):
    model_config = _example({"image_hash": EXAMPLE_HASH, "entry": _ENTRY, "history": [_CHANGE], "comments": [_COMMENT]})


class ReviewRequest(BaseModel):
    """The same for each of some entries."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"action": "correct", "image_hashes": [EXAMPLE_HASH], "category": "pets"}]},
    )

    action: Annotated[
        ReviewAction,
        Field(
            description="`correct`; `remove`, which can be undone for a week; `ask_again`: the next upload of the photo"
            " asks the model; `dismiss`: the entry is right, and votes for another category count no longer; `undo` the"
            " last change by people."
        ),
    ]
    image_hashes: Annotated[list[ImageHash], Field(min_length=1, max_length=MAX_HASHES)]
    category: Annotated[Category | None, Field(description="Of a correction, which needs one.")] = None
    description: Annotated[
        str | None,
        Field(max_length=DESCRIPTION_MAX_CHARACTERS, description="Of a correction; left out, the entries have none."),
        AfterValidator(_clean),
    ] = None


class ReviewResponse(DataResponse[list[Outcome]]):
    """One for each photo, in their order; where `error` is not null, that one was not changed."""

    model_config = _example([{"image_hash": EXAMPLE_HASH, "error": None}])
