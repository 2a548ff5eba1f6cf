"""Accounts: sign up, log in, and what one may do with one's own account."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import OAuth2PasswordRequestForm

from app.api.dependencies import AccountsDep, CurrentAccount, CurrentSession, client_address
from app.api.errors import describe_errors
from app.errors import (
    AuthenticationRequired,
    DatabaseUnavailable,
    EmailTaken,
    InvalidToken,
    LoginFailed,
    PayloadTooLarge,
    ReauthenticationRequired,
    ServerBusy,
    SignUpClosed,
    TokenExpired,
    TooManyLogins,
    TooManySignUps,
    UsernameTaken,
    WeakPassword,
)
from app.schemas.users import (
    PASSWORD_MAX_LENGTH,
    Confirmation,
    NewUser,
    TokenAnswer,
    UserAnswer,
    UserChanges,
    is_unicode,
)

router = APIRouter(prefix="/users", tags=["users"])

_DATABASE_ERRORS = (PayloadTooLarge, DatabaseUnavailable, ServerBusy)
_TOKEN_ERRORS = (AuthenticationRequired, InvalidToken, TokenExpired)
_CHANGE_ERRORS = (ReauthenticationRequired, TooManyLogins, *_TOKEN_ERRORS, *_DATABASE_ERRORS)


@router.post(
    "/",
    status_code=201,
    responses=describe_errors(WeakPassword, SignUpClosed, UsernameTaken, EmailTaken, TooManySignUps, *_DATABASE_ERRORS),
)
async def register(request: Request, body: NewUser, accounts: AccountsDep) -> UserAnswer:
    """Create an account, where the operator lets clients do so."""
    account = await accounts.sign_up(body.username, body.email, body.password, _address(request))
    return UserAnswer.model_validate(account)


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
    token = await accounts.log_in(form.username, form.password, _address(request))
    # RFC 6749, 5.1.
    response.headers["Cache-Control"] = "no-store"
    return TokenAnswer(access_token=token.text, expires_in=token.lifetime_seconds, expires_at=token.expires_at)


@router.get("/me", responses=describe_errors(*_TOKEN_ERRORS, DatabaseUnavailable, ServerBusy))
async def get_me(account: CurrentAccount) -> UserAnswer:
    """Your account."""
    return UserAnswer.model_validate(account)


@router.put("/me", responses=describe_errors(WeakPassword, UsernameTaken, EmailTaken, *_CHANGE_ERRORS))
async def update_me(request: Request, body: UserChanges, session: CurrentSession, accounts: AccountsDep) -> UserAnswer:
    """Change your account, with a token younger than ten minutes or with `current_password`.

    A new password ends all your tokens, this one too.
    """
    if body.username is None and body.email is None and body.password is None:
        return UserAnswer.model_validate(session.account)
    await accounts.confirm(session, body.current_password, _address(request))
    changed = await accounts.update(
        session.account, _address(request), username=body.username, email=body.email, password=body.password
    )
    return UserAnswer.model_validate(changed)


@router.delete("/me", status_code=204, responses=describe_errors(*_CHANGE_ERRORS))
async def delete_me(
    request: Request, session: CurrentSession, accounts: AccountsDep, body: Confirmation | None = None
) -> None:
    """Delete your account, your pictures and your results.

    It takes a token younger than ten minutes, or `current_password` in a JSON body.
    """
    await accounts.confirm(session, None if body is None else body.current_password, _address(request))
    await accounts.delete(session.account, _address(request))


@router.delete(
    "/me/tokens", status_code=204, responses=describe_errors(*_TOKEN_ERRORS, DatabaseUnavailable, ServerBusy)
)
async def end_my_tokens(request: Request, account: CurrentAccount, accounts: AccountsDep) -> None:
    """Log out everywhere: all your tokens end, this one too."""
    await accounts.end_tokens(account, _address(request))


def _address(request: Request) -> str | None:
    return None if request.client is None else client_address(request.client.host)


def _may_be_known(text: str) -> bool:
    # A multipart form may name an encoding that has lone surrogates, which can be neither hashed nor kept.
    return len(text) <= PASSWORD_MAX_LENGTH and is_unicode(text)
