"""Accounts over the wire."""

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field

from app.schemas.common import Timestamp

# 20 to 30 characters in any language; the rest is for names that grow when they are compared.
USERNAME_MAX_LENGTH = 32
PASSWORD_MIN_LENGTH = 8
# Long enough for any sentence; hashing an endless one would be work for nothing.
PASSWORD_MAX_LENGTH = 256
EMAIL_MAX_LENGTH = 254


def _clean_username(value: str) -> str:
    value = unicodedata.normalize("NFC", value)
    if not all(character.isalnum() or character in "._-" for character in value):
        raise ValueError("letters, digits, '.', '_' and '-' only")
    return value


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode") from None
    return value


Username = Annotated[
    str,
    Field(min_length=2, max_length=USERNAME_MAX_LENGTH, examples=["testuser"]),
    AfterValidator(_clean_username),
    Field(description="Letters of any language, digits, '.', '_', '-'. Upper and lower case are the same name."),
]
Email = Annotated[EmailStr, Field(max_length=EMAIL_MAX_LENGTH, examples=["test@example.com"])]
Password = Annotated[
    str,
    Field(min_length=PASSWORD_MIN_LENGTH, max_length=PASSWORD_MAX_LENGTH, examples=["testpassword123"]),
    AfterValidator(_encodable),
]


class NewUser(BaseModel):
    """A new account."""

    username: Username
    email: Email
    password: Password


class UserChanges(BaseModel):
    """What is to be changed; what is left out stays."""

    username: Username | None = None
    email: Email | None = None
    password: Password | None = None


class UserAnswer(BaseModel):
    """An account."""

    model_config = ConfigDict(from_attributes=True)

    id: Annotated[int, Field(examples=[1])]
    username: Annotated[str, Field(examples=["testuser"])]
    email: Annotated[str, Field(examples=["test@example.com"])]
    created_at: Timestamp


class TokenAnswer(BaseModel):
    """A token, to be sent as `Authorization: Bearer TOKEN`."""

    access_token: Annotated[str, Field(examples=["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl"])]
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - RFC 6749, 7.1
    expires_in: Annotated[int, Field(description="Seconds.", examples=[86400])]
    expires_at: Timestamp
