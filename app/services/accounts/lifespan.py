"""What a process needs of accounts: the key that signs tokens, and threads that hash passwords."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.errors import AppError
from app.services.accounts.login_throttle import LoginThrottle
from app.services.accounts.passwords import PasswordHasher
from app.services.accounts.service import AccountService
from app.services.accounts.tokens import TokenIssuer, kept_secret_key, key_id
from app.services.audit.service import AuditLog
from app.services.library.service import LibraryService
from app.services.privacy.service import PrivacyService


@asynccontextmanager
async def open_accounts(
    settings: Settings, engine: AsyncEngine, *, library: LibraryService, privacy: PrivacyService, audit: AuditLog
) -> AsyncIterator[AccountService]:
    """Keep accounts for the length of the block.

    Args:
        settings: the key that signs tokens, or the folder that it is kept in, and how long tokens count.
        engine: the database.
        library: its pictures are deleted with an account.
        audit: is told of log-ins, and of what owners change.
        privacy: forgets an account that is deleted.

    Raises:
        AppError: the key cannot be kept.
    """
    tokens = _create_token_issuer(settings)
    passwords = PasswordHasher()
    try:
        yield AccountService(
            engine,
            passwords=passwords,
            tokens=tokens,
            throttle=LoginThrottle(engine),
            library=library,
            privacy=privacy,
            audit=audit,
            is_sign_up_open=settings.is_sign_up_open,
        )
    finally:
        passwords.close()


def secret_keys(settings: Settings) -> dict[str, str]:
    """Return the keys that tokens are signed with, by their `kid`; the first signs.

    Raises:
        AppError: the key cannot be kept.
    """
    try:
        keys = settings.account.secret_keys or [kept_secret_key(settings.data_dir)]
    except (OSError, ValueError) as error:
        raise AppError(
            f"The key that signs tokens cannot be kept: {error}. Check DATA_DIR, or set SECRET_KEY."
        ) from error
    return {key_id(key): key for key in keys}


def _create_token_issuer(settings: Settings) -> TokenIssuer:
    keys = list(secret_keys(settings).values())
    return TokenIssuer(keys, timedelta(minutes=settings.account.token_minutes))
