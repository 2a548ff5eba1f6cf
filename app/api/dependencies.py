"""`Annotated` aliases, so that a route's signature reads like a sentence.

All are `async`, though none waits: FastAPI would run plain functions in a thread, at the price of a hop for each.
"""

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, cast

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
from app.services.privacy.service import PrivacyService
from app.services.request_log.record import Caller, user_id_of_account
from app.services.request_log.service import RequestLogService
from app.services.statistics.service import StatsService
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
TasksDep = Annotated[TaskService, _opened(lambda resources: resources.tasks)]
CurrentAccount = Annotated[Account, Depends(get_current_account)]
CurrentSession = Annotated[Session, Depends(get_current_session)]
CallerDep = Annotated[Caller, Depends(get_caller)]
