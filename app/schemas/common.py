"""Pieces that many bodies share: the error format, the `data` envelope, hashes and user ids."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

T = TypeVar("T")

EXAMPLE_MODEL = "gpt-6-luna"
EXAMPLE_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
EXAMPLE_REQUEST_ID = "req_1760097600_a3f5d8c2b1e9"
EXAMPLE_TIMESTAMP = "2025-10-10T12:00:00Z"
USER_ID_MAX_LENGTH = 64
# How the log names people who have signed in (app/services/request_log/record.py).
ACCOUNT_PREFIX = "account:"


def clean_user_id(value: str) -> str | None:
    """Return a user id without surrounding space, None for an empty one.

    Raises:
        ValueError: longer than the column that keeps it, with invisible characters, or named like an account.
    """
    value = value.strip()
    if not value:
        return None
    if len(value) > USER_ID_MAX_LENGTH:
        raise ValueError(f"a user id has at most {USER_ID_MAX_LENGTH} characters")
    if not value.isprintable():
        raise ValueError("a user id has no control characters")
    if value.casefold().startswith(ACCOUNT_PREFIX):
        raise ValueError(f'a user id does not begin with "{ACCOUNT_PREFIX}", which marks those who have signed in')
    return value


def _required_user_id(value: str) -> str:
    cleaned = clean_user_id(value)
    if cleaned is None:
        raise ValueError("a user id is needed")
    return cleaned


ImageHash = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True),
    Field(description="SHA-256 of the photo's bytes, 64 hex digits.", examples=[EXAMPLE_HASH]),
]
UserId = Annotated[
    str,
    AfterValidator(clean_user_id),
    Field(description="Device or user id, at most 64 characters, for statistics only.", examples=["device_uuid_xxx"]),
]
RequiredUserId = Annotated[
    str, StringConstraints(min_length=1, max_length=USER_ID_MAX_LENGTH), AfterValidator(_required_user_id)
]
RequestId = Annotated[str, Field(description="Identifies the request in the log.", examples=[EXAMPLE_REQUEST_ID])]
Timestamp = Annotated[datetime, Field(description="UTC, ISO 8601.", examples=[EXAMPLE_TIMESTAMP])]


class ErrorBody(BaseModel):
    """What went wrong."""

    code: Annotated[str, Field(description="Stable; decide by it.", examples=["hash_mismatch"])]
    message: Annotated[str, Field(description="One sentence for a person.")]
    details: Annotated[Any, Field(description="More for a developer, such as the fields at fault; else null.")] = None


class ErrorResponse(BaseModel):
    """The one error format."""

    success: Literal[False] = False
    error: ErrorBody
    request_id: RequestId
    timestamp: Timestamp


class DataResponse(BaseModel, Generic[T]):
    """The envelope of the statistics and look-ups."""

    success: Literal[True] = True
    data: T
