"""Accounts: sign up, log in, and what one may do with one's own account."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import OAuth2PasswordRequestForm

from app.api.dependencies import AccountsDep, CurrentAccount, client_address
from app.api.errors import describe_errors
from app.errors import (
    AuthenticationRequired,
    DatabaseUnavailable,
    EmailTaken,
    InvalidToken,
    LoginFailed,
    PayloadTooLarge,
    ServerBusy,
    TokenExpired,
    TooManyLogins,
    UsernameTaken,
)
from app.schemas.users import PASSWORD_MAX_LENGTH, NewUser, TokenAnswer, UserAnswer, UserChanges, is_unicode

router = APIRouter(prefix="/users", tags=["users"])

_DATABASE_ERRORS = (PayloadTooLarge, DatabaseUnavailable, ServerBusy)
_TOKEN_ERRORS = (AuthenticationRequired, InvalidToken, TokenExpired)


@router.post("/", status_code=201, responses=describe_errors(UsernameTaken, EmailTaken, *_DATABASE_ERRORS))
async def register(body: NewUser, accounts: AccountsDep) -> UserAnswer:
    """Create an account."""
    return UserAnswer.model_validate(await accounts.register(body.username, body.email, body.password))


@router.post("/token", responses=describe_errors(LoginFailed, TooManyLogins, *_DATABASE_ERRORS))
async def log_in(
    request: Request,
    response: Response,
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
    accounts: AccountsDep,
) -> TokenAnswer:
    """Log in with user name and password; the token goes into the header `Authorization: Bearer TOKEN`."""
    if not (_may_be_known(form.username) and _may_be_known(form.password)):
        raise LoginFailed
    address = None if request.client is None else client_address(request.client.host)
    token = await accounts.log_in(form.username, form.password, address)
    # RFC 6749, 5.1.
    response.headers["Cache-Control"] = "no-store"
    return TokenAnswer(access_token=token.text, expires_in=token.lifetime_seconds, expires_at=token.expires_at)


@router.get("/me", responses=describe_errors(*_TOKEN_ERRORS, DatabaseUnavailable, ServerBusy))
async def get_me(account: CurrentAccount) -> UserAnswer:
    """Your account."""
    return UserAnswer.model_validate(account)


@router.put("/me", responses=describe_errors(UsernameTaken, EmailTaken, *_TOKEN_ERRORS, *_DATABASE_ERRORS))
async def update_me(body: UserChanges, account: CurrentAccount, accounts: AccountsDep) -> UserAnswer:
    """Change your account. A new password ends all your tokens, this one too."""
    changed = await accounts.update(account, username=body.username, email=body.email, password=body.password)
    return UserAnswer.model_validate(changed)


@router.delete("/me", status_code=204, responses=describe_errors(*_TOKEN_ERRORS, DatabaseUnavailable, ServerBusy))
async def delete_me(account: CurrentAccount, accounts: AccountsDep) -> None:
    """Delete your account, your pictures and your results."""
    await accounts.delete(account)


def _may_be_known(text: str) -> bool:
    # A multipart form may name an encoding that has lone surrogates, which can be neither hashed nor kept.
    return len(text) <= PASSWORD_MAX_LENGTH and is_unicode(text)
