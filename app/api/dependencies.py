"""`Annotated` aliases, so that a route's signature reads like a sentence.

All are `async`, though none waits: FastAPI would run plain functions in a thread, at the price of a hop for each.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPBearer, OAuth2PasswordBearer
from starlette.types import Scope

from app.errors import ApiKeyRequired, AuthenticationRequired, InvalidRequest
from app.language.accept import Language
from app.language.descriptions import language_of
from app.resources import Resources
from app.schemas.common import clean_user_id
from app.services.accounts.rows import Account
from app.services.accounts.service import AccountService, Session
from app.services.api_keys.key import ADMIN_KEY_ID, ApiKey
from app.services.api_keys.key import Scope as KeyScope
from app.services.audit.service import AuditLog
from app.services.cache.service import CacheService
from app.services.classification.service import ClassifierService
from app.services.device_tokens import Device, DeviceTokenService
from app.services.feedback.entries import ReviewedEntries
from app.services.feedback.review import Operator, ReviewService
from app.services.feedback.service import FeedbackService
from app.services.feedback.voter import Voter, voter_of
from app.services.health import HealthService
from app.services.inference.catalogue import ModelCatalogue
from app.services.inference.service import InferenceService
from app.services.library.service import LibraryService
from app.services.privacy.service import PrivacyService
from app.services.request_log.record import Caller, user_id_of_account
from app.services.request_log.service import RequestLogService
from app.services.statistics.service import StatsService
from app.services.tasks.jobs import JobService
from app.services.tasks.service import TaskService


def resources_of(scope: Scope) -> Resources:
    """What the lifespan opened, from an ASGI scope."""
    return cast("Resources", scope["app"].state.resources)


def _opened(part: Callable[[Resources], object]) -> Any:
    """Return the dependency on a part of what the lifespan opened."""

    async def get(request: Request) -> object:
        return part(resources_of(request.scope))

    return Depends(get)


# Relative: the button of /docs asks below the address of /docs, behind a proxy that puts a prefix before it as well.
_oauth2 = OAuth2PasswordBearer(tokenUrl="users/token", scheme_name="Account", auto_error=False)


# For /docs alone: app/api/access.py has looked at the key before any route is found.
TAKES_KEY_SCHEME = "ApiKey"
TAKES_KEY = Depends(
    HTTPBearer(
        scheme_name=TAKES_KEY_SCHEME,
        description="An API key, where keys are needed. Photos are classified with a device token, too.",
        auto_error=False,
    )
)


async def get_current_account(request: Request, token: Annotated[str | None, Depends(_oauth2)]) -> Account:
    """Whose token the request has; raises as `get_current_session`."""
    return (await get_current_session(request, token)).account


async def get_current_session(request: Request, token: Annotated[str | None, Depends(_oauth2)]) -> Session:
    """What the request's token stands for.

    Raises:
        AuthenticationRequired: it has none.
        InvalidToken, TokenExpired: the token does not count, or not any more.
    """
    if not token:
        raise AuthenticationRequired
    session = await resources_of(request.scope).accounts.session_of(token)
    request.state.user = user_id_of_account(session.account.id)
    return session


async def get_language(
    request: Request,
    lang: Annotated[
        Language | None,
        Query(
            description="Language of the description where `DESCRIPTION_LANGUAGE=auto`; it wins over `Accept-Language`."
            " A service with one language describes in that, as `description_language` says."
        ),
    ] = None,
) -> Language:
    """The language in which the caller gets descriptions."""
    return language_in(request.scope, lang)


def language_in(scope: Scope, lang: Language | None = None) -> Language:
    """The language in which a request gets descriptions, from an ASGI scope and what the query says."""
    settings = resources_of(scope).settings
    return language_of(settings.model.description_language, lang, scope["headers"], settings.statistics.timezone.key)


async def get_caller(
    request: Request,
    x_user_id: Annotated[
        str | None, Header(description="Device or user id, at most 64 characters; wins over the body's `user_id`.")
    ] = None,
) -> Caller:
    """The caller, from the headers and the connection.

    Raises:
        InvalidRequest: the header holds something that cannot be a user id.
    """
    # HTTP libraries hand header bytes over as Latin-1; apps send UTF-8.
    return caller_of(request.scope, None if x_user_id is None else x_user_id.encode("latin-1"))


def caller_of(scope: Scope, user_id: bytes | None) -> Caller:
    """The caller, from an ASGI scope and the bytes of the header X-User-ID.

    Raises:
        InvalidRequest: the header holds something that cannot be a user id.
    """
    state = scope["state"]
    device: Device | None = state.get("device")
    account: Account | None = state.get("account")
    # A device is who its token says, and so is an account.
    if device is not None:
        user: str | None = device.id
    elif account is not None:
        user = user_id_of_account(account.id)
    else:
        user = None if user_id is None else _user_id(user_id)
    # For the access log.
    state.setdefault("user", user)
    key: ApiKey | None = (
        state.get("api_key") or state.get("signing_key") or (device.key if device is not None else None)
    )
    return Caller(
        request_id=state["request_id"],
        user_id=user,
        ip_address=address_of(scope),
        started_at=state["started_at"],
        account_id=None if account is None else account.id,
        api_key_id=None if key is None or key.id == ADMIN_KEY_ID else key.id,
        key_budget_micros=None if key is None else key.budget_micros,
        new_photos_per_day=None if device is None else device.new_photos_per_day,
        language=language_in(scope),
    )


def voter_in(scope: Scope, caller: Caller, *, is_sign_up_open: bool) -> tuple[Voter, bool]:
    """Who says something of an answer, and whether with an API key of its own."""
    state = scope["state"]
    key: ApiKey | None = state.get("api_key") or state.get("signing_key")
    is_device = "device" in state
    key_id = None if key is None else key.id
    voter = voter_of(caller, key_id=key_id, is_device=is_device, is_sign_up_open=is_sign_up_open)
    return voter, key is not None


async def get_admin_key(request: Request) -> ApiKey:
    """The key with which a request may change things by hand; `app/api/access.py` has checked its scope.

    Raises:
        ApiKeyRequired: it has none: the path of the route is not in the table of that module.
    """
    key: ApiKey | None = request.scope["state"].get("api_key")
    if key is None or not key.may(KeyScope.ADMIN):
        raise ApiKeyRequired
    return key


@lru_cache(maxsize=10_000)
def client_address(host: str) -> str | None:
    """The client's IP address (the server has already applied X-Forwarded-For from trusted proxies), or None."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def address_of(scope: Scope) -> str | None:
    """The IP address that a request comes from, None where it has none (a Unix socket)."""
    client = scope.get("client")
    return None if client is None else client_address(client[0])


def _user_id(header: bytes) -> str | None:
    try:
        return clean_user_id(header.decode("utf-8"))
    except UnicodeError:
        raise InvalidRequest("X-User-ID is not valid UTF-8.") from None
    except ValueError as error:
        raise InvalidRequest("X-User-ID: {reason}.", values={"reason": str(error)}) from None


ResourcesDep = Annotated[Resources, _opened(lambda resources: resources)]
ClassifierDep = Annotated[ClassifierService, _opened(lambda resources: resources.classifier)]
CacheDep = Annotated[CacheService, _opened(lambda resources: resources.cache)]
StatsDep = Annotated[StatsService, _opened(lambda resources: resources.stats)]
HealthDep = Annotated[HealthService, _opened(lambda resources: resources.health)]
RequestLogDep = Annotated[RequestLogService, _opened(lambda resources: resources.request_log)]
PrivacyDep = Annotated[PrivacyService, _opened(lambda resources: resources.privacy)]
AccountsDep = Annotated[AccountService, _opened(lambda resources: resources.accounts)]
InferenceDep = Annotated[InferenceService, _opened(lambda resources: resources.inference)]
ModelsDep = Annotated[ModelCatalogue, _opened(lambda resources: resources.models)]
LibraryDep = Annotated[LibraryService, _opened(lambda resources: resources.library)]
JobsDep = Annotated[JobService, _opened(lambda resources: resources.jobs)]
TasksDep = Annotated[TaskService, _opened(lambda resources: resources.tasks)]
DeviceTokensDep = Annotated[DeviceTokenService, _opened(lambda resources: resources.device_tokens)]
CurrentAccount = Annotated[Account, Depends(get_current_account)]
CurrentSession = Annotated[Session, Depends(get_current_session)]
CallerDep = Annotated[Caller, Depends(get_caller)]
LanguageDep = Annotated[Language, Depends(get_language)]


async def get_reader(caller: CallerDep, language: LanguageDep) -> Caller:
    """The caller of a route whose answer describes photos, with the language that its query may name."""
    return replace(caller, language=language)


ReaderDep = Annotated[Caller, Depends(get_reader)]
AuditDep = Annotated[AuditLog, _opened(lambda resources: resources.audit)]
FeedbackDep = Annotated[FeedbackService, _opened(lambda resources: resources.feedback.votes)]
ReviewDep = Annotated[ReviewService, _opened(lambda resources: resources.feedback.review)]
EntriesDep = Annotated[ReviewedEntries, _opened(lambda resources: resources.feedback.entries)]
AdminKey = Annotated[ApiKey, Depends(get_admin_key)]


async def get_operator(request: Request, key: AdminKey) -> Operator:
    """Who changes an entry by hand; raises as `get_admin_key`."""
    return Operator(key.actor, address_of(request.scope))


OperatorDep = Annotated[Operator, Depends(get_operator)]
