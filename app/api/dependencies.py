"""`Annotated` aliases, so that a route's signature reads like a sentence.

All are `async`, though none waits: FastAPI would run plain functions in a thread, at the price of a hop for each.
"""

import ipaddress
from functools import lru_cache
from typing import Annotated, cast

from fastapi import Depends, Header, Request
from fastapi.security import OAuth2PasswordBearer
from starlette.types import Scope

from app.errors import AuthenticationRequired, InvalidRequest
from app.resources import Resources
from app.schemas.common import clean_user_id
from app.services.accounts.service import Account, AccountService, Session
from app.services.cache.service import CacheService
from app.services.classification.service import ClassifierService
from app.services.health import HealthService
from app.services.inference.catalogue import ModelCatalogue
from app.services.inference.service import InferenceService
from app.services.library.service import LibraryService
from app.services.request_log.record import Caller, user_id_of_account
from app.services.request_log.service import RequestLogService
from app.services.statistics.service import StatsService
from app.services.tasks.service import TaskService


async def get_resources(request: Request) -> Resources:
    """What the lifespan opened."""
    return resources_of(request.scope)


def resources_of(scope: Scope) -> Resources:
    """The same, from an ASGI scope."""
    return cast("Resources", scope["app"].state.resources)


async def get_classifier(request: Request) -> ClassifierService:
    return resources_of(request.scope).classifier


async def get_cache(request: Request) -> CacheService:
    return resources_of(request.scope).cache


async def get_stats(request: Request) -> StatsService:
    return resources_of(request.scope).stats


async def get_health(request: Request) -> HealthService:
    return resources_of(request.scope).health


async def get_request_log(request: Request) -> RequestLogService:
    return resources_of(request.scope).request_log


async def get_accounts(request: Request) -> AccountService:
    return resources_of(request.scope).accounts


async def get_inference(request: Request) -> InferenceService:
    return resources_of(request.scope).inference


async def get_models(request: Request) -> ModelCatalogue:
    return resources_of(request.scope).models


async def get_library(request: Request) -> LibraryService:
    return resources_of(request.scope).library


async def get_tasks(request: Request) -> TaskService:
    return resources_of(request.scope).tasks


# Relative: the button of /docs asks below the address of /docs, behind a proxy that puts a prefix before it as well.
_oauth2 = OAuth2PasswordBearer(tokenUrl="users/token", scheme_name="Account", auto_error=False)


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


async def get_caller(
    request: Request,
    x_user_id: Annotated[
        str | None, Header(description="Device or user id, at most 64 characters; wins over the body's `user_id`.")
    ] = None,
) -> Caller:
    """Who asks, from the headers and the connection.

    Raises:
        InvalidRequest: the header holds something that cannot be a user id.
    """
    # HTTP libraries hand header bytes over as Latin-1; apps send UTF-8.
    return caller_of(request.scope, None if x_user_id is None else x_user_id.encode("latin-1"))


def caller_of(scope: Scope, user_id: bytes | None) -> Caller:
    """Who asks, from an ASGI scope and the bytes of the header X-User-ID.

    Raises:
        InvalidRequest: the header holds something that cannot be a user id.
    """
    client = scope.get("client")
    state = scope["state"]
    user = None if user_id is None else _user_id(user_id)
    # For the access log. An account that is logged in is what its token says.
    state.setdefault("user", user)
    return Caller(
        request_id=state["request_id"],
        user_id=user,
        ip_address=None if client is None else client_address(client[0]),
        started_at=state["started_at"],
    )


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


def _user_id(header: bytes) -> str | None:
    try:
        return clean_user_id(header.decode("utf-8"))
    except UnicodeError:
        raise InvalidRequest("X-User-ID is not valid UTF-8.") from None
    except ValueError as error:
        raise InvalidRequest(f"X-User-ID: {error}.") from None


ResourcesDep = Annotated[Resources, Depends(get_resources)]
ClassifierDep = Annotated[ClassifierService, Depends(get_classifier)]
CacheDep = Annotated[CacheService, Depends(get_cache)]
StatsDep = Annotated[StatsService, Depends(get_stats)]
HealthDep = Annotated[HealthService, Depends(get_health)]
RequestLogDep = Annotated[RequestLogService, Depends(get_request_log)]
AccountsDep = Annotated[AccountService, Depends(get_accounts)]
InferenceDep = Annotated[InferenceService, Depends(get_inference)]
ModelsDep = Annotated[ModelCatalogue, Depends(get_models)]
LibraryDep = Annotated[LibraryService, Depends(get_library)]
TasksDep = Annotated[TaskService, Depends(get_tasks)]
CurrentAccount = Annotated[Account, Depends(get_current_account)]
CurrentSession = Annotated[Session, Depends(get_current_session)]
CallerDep = Annotated[Caller, Depends(get_caller)]
