"""Accounts over the wire."""

import re
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


# Letters and marks that are not to be seen (Default_Ignorable_Code_Point): with them a name would look like another.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")


def is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogates, which can be neither hashed nor kept."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _clean_username(value: str) -> str:
    value = unicodedata.normalize("NFC", value)
    if len(value) > USERNAME_MAX_LENGTH:
        raise ValueError(f"at most {USERNAME_MAX_LENGTH} characters")
    # Many languages write vowels as marks on the letter before.
    is_clean = all(character.isalnum() or character in "._-" or _is_mark(character) for character in value)
    if not is_clean or _is_mark(value[0]) or _INVISIBLE.search(value):
        raise ValueError("letters, digits, '.', '_' and '-' only")
    return value


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in {"Mn", "Mc"}


def _encodable(value: str) -> str:
    if not is_unicode(value):
        raise ValueError("not valid Unicode")
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

CurrentPassword = Annotated[
    str,
    Field(max_length=PASSWORD_MAX_LENGTH, examples=["testpassword123"]),
    AfterValidator(_encodable),
    Field(description="Your password, where your token is older than ten minutes."),
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
    current_password: CurrentPassword | None = None


class Confirmation(BaseModel):
    """What proves that the account's owner is there."""

    current_password: CurrentPassword | None = None


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
