"""Bodies of the endpoints that change cache entries by hand."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.categories import Category
from app.clients.llm.parsing import DESCRIPTION_MAX_CHARACTERS, clean_text
from app.schemas.classify import Classification
from app.schemas.common import DataResponse

_DESCRIPTION = "一只坐在窗台上的橘猫"
_REMOVED_EXAMPLE: dict[str, Any] = {"success": True, "removed": True}


def _clean_description(value: str | None) -> str | None:
    return None if value is None else clean_text(value, DESCRIPTION_MAX_CHARACTERS) or None


class Correction(BaseModel):
    """What a photo shows, by a person's word. A description that is left out is removed."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"category": "pets", "description": _DESCRIPTION}]}
    )

    category: Category
    description: Annotated[
        str | None,
        Field(max_length=DESCRIPTION_MAX_CHARACTERS, description="One sentence."),
        AfterValidator(_clean_description),
    ] = None


class CorrectedEntry(Classification):
    """The entry as every client gets it from now on; its confidence is none of a model."""

    model_used: Literal["manual"] = "manual"
    confidence_source: Literal["corrected"] = "corrected"


class CorrectedEntryResponse(DataResponse[CorrectedEntry]):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "data": {
                        "category": "pets",
                        "confidence": 1.0,
                        "description": _DESCRIPTION,
                        "model_used": "manual",
                        "confidence_source": "corrected",
                    },
                }
            ]
        }
    )


class RemovedEntryResponse(BaseModel):
    """The photo is unknown again."""

    model_config = ConfigDict(json_schema_extra={"examples": [_REMOVED_EXAMPLE]})

    success: Literal[True] = True
    removed: Literal[True] = True
