"""Settings of accounts: who may sign up, and how long a log-in lasts."""

from enum import StrEnum

from pydantic import Field, SecretStr, field_validator

from app.config.source import SettingsGroup

SECRET_KEY_MIN_BYTES = 32
# The one that signs, and the one before it, while tokens of that are still about.
MAX_SECRET_KEYS = 2


class SignUp(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


class AccountSettings(SettingsGroup):
    """Accounts and their tokens."""

    secret_key: SecretStr = Field(SecretStr(""), validation_alias="SECRET_KEY")
    """Signs tokens: 32 bytes or more (openssl rand -hex 32). Empty in development: made once, and kept in DATA_DIR.

    Two, with a comma between them, to replace one by the other: the first signs, both verify.
    """
    token_minutes: int = Field(60 * 24, validation_alias="ACCESS_TOKEN_EXPIRE_MINUTES", ge=1, le=60 * 24 * 365)
    """How long a log-in lasts."""
    sign_up: SignUp | None = Field(None, validation_alias="SIGN_UP")
    """open: any client may make an account; closed: only an operator. Empty: closed in production, else open."""

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        keys = _split(value)
        if len(keys) > MAX_SECRET_KEYS:
            raise ValueError(f"at most {MAX_SECRET_KEYS} keys, with a comma between them")
        # RFC 7518, 3.2: a key for HS256 is at least as long as the hash.
        if any(len(key.encode()) < SECRET_KEY_MIN_BYTES for key in keys):
            raise ValueError(f"at least {SECRET_KEY_MIN_BYTES} bytes are needed, such as from openssl rand -hex 32")
        return value

    @property
    def secret_keys(self) -> list[str]:
        """The keys: the first signs, all verify. None where SECRET_KEY is empty."""
        return _split(self.secret_key)

    def is_sign_up_open(self, *, in_production: bool) -> bool:
        """Whether a client may make an account."""
        return (self.sign_up or (SignUp.CLOSED if in_production else SignUp.OPEN)) is SignUp.OPEN


def _split(value: SecretStr) -> list[str]:
    text = value.get_secret_value()
    return [key.strip() for key in text.split(",")] if text else []
