"""`Annotated` aliases, so that a route's signature reads like a sentence.

All are `async`, though none waits: FastAPI would run plain functions in a thread, at the price of a hop for each.
"""

import ipaddress
from typing import Annotated, cast

from fastapi import Depends, Header, Request

from app.errors import InvalidRequest
from app.resources import Resources
from app.schemas.common import clean_user_id
from app.services.cache import CacheService
from app.services.classifier import Caller, ClassifierService
from app.services.health import HealthService
from app.services.request_log import RequestLogService
from app.services.stats import StatsService


async def get_resources(request: Request) -> Resources:
    """What the lifespan opened."""
    return _resources(request)


def _resources(request: Request) -> Resources:
    return cast("Resources", request.app.state.resources)


async def get_classifier(request: Request) -> ClassifierService:
    return _resources(request).classifier


async def get_cache(request: Request) -> CacheService:
    return _resources(request).cache


async def get_stats(request: Request) -> StatsService:
    return _resources(request).stats


async def get_health(request: Request) -> HealthService:
    return _resources(request).health


async def get_request_log(request: Request) -> RequestLogService:
    return _resources(request).request_log


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
    return Caller(
        request_id=request.state.request_id,
        user_id=None if x_user_id is None else _user_id(x_user_id),
        ip_address=client_address(request),
        started_at=request.state.started_at,
    )


def client_address(request: Request) -> str | None:
    """The client's IP address (the server has already applied X-Forwarded-For from trusted proxies), or None."""
    if request.client is None:
        return None
    try:
        address = ipaddress.ip_address(request.client.host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def _user_id(header: str) -> str | None:
    try:
        # HTTP libraries hand header bytes over as Latin-1; apps send UTF-8.
        return clean_user_id(header.encode("latin-1").decode("utf-8"))
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
CallerDep = Annotated[Caller, Depends(get_caller)]
