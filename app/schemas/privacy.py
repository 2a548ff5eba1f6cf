"""Bodies of the endpoints that forget and export what is kept of a user."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.schemas.common import USER_ID_MAX_LENGTH, DataResponse


def _as_kept(value: str) -> str:
    if not value.isprintable():
        raise ValueError("a user id has no control characters")
    return value


KeptUserId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=USER_ID_MAX_LENGTH,
        description="The id as the log has it, percent-encoded: what the client sent, or `account:ID`.",
        examples=["device_uuid_xxx"],
    ),
    AfterValidator(_as_kept),
]
_EXAMPLE: dict[str, Any] = {"success": True, "data": {"log_rows": 42, "days": 7, "model_calls": 3}}


class ForgottenUser(BaseModel):
    """What no longer names the user."""

    model_config = ConfigDict(from_attributes=True)

    log_rows: Annotated[int, Field(description="Rows of the request log.")]
    days: Annotated[int, Field(description="Days on which the user was seen.")]
    model_calls: Annotated[int, Field(description="Rows of the ledger.")]


class ForgottenUserResponse(DataResponse[ForgottenUser]):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
