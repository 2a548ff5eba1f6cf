"""Bodies of what users say of answers."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.categories import Category
from app.clients.llm.parsing import clean_text
from app.schemas.common import EXAMPLE_HASH, EXAMPLE_REQUEST_ID, DataResponse, ImageHash, UserId
from app.services.feedback.service import Feedback

COMMENT_MAX_CHARACTERS = 500
_EXAMPLE: dict[str, Any] = {
    "success": True,
    "data": {"replaced": False, "agrees": False, "corrected": False},
}


def _clean(value: str | None) -> str | None:
    return None if value is None else clean_text(value, COMMENT_MAX_CHARACTERS) or None


class FeedbackRequest(BaseModel):
    """What a photo shows, by a user's word: of the answer to a request, or of the photo with a hash; one is needed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"request_id": EXAMPLE_REQUEST_ID, "category": "pets", "comment": "这是我的猫"},
                {"image_hash": EXAMPLE_HASH, "category": "pets"},
            ]
        },
    )

    category: Annotated[Category, Field(description="The right one; the answered one, to confirm it.")]
    request_id: Annotated[
        str | None, Field(min_length=1, max_length=64, description="Of the answer.", examples=[EXAMPLE_REQUEST_ID])
    ] = None
    image_hash: ImageHash | None = None
    comment: Annotated[
        str | None,
        Field(max_length=COMMENT_MAX_CHARACTERS, description="For the operator; it is shown to no other user."),
        AfterValidator(_clean),
    ] = None
    user_id: UserId | None = None

    def feedback(self) -> Feedback:
        """Return it as the service takes it."""
        return Feedback(self.category, self.comment, self.image_hash, self.request_id)


class FeedbackReceipt(BaseModel):
    """What has become of it."""

    model_config = ConfigDict(from_attributes=True)

    replaced: Annotated[bool, Field(description="It has replaced what the same user had said of the photo before.")]
    agrees: Annotated[bool, Field(description="It is what the entry said.")]
    corrected: Annotated[bool, Field(description="With it enough users agree, and the entry was corrected.")]


class FeedbackResponse(DataResponse[FeedbackReceipt]):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    success: Literal[True] = True
