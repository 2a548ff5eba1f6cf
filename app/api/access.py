"""Who may ask what: decided for every request by its path, before its body is read and before a route is looked for.

A path that this table does not know below `/api/v1` is one that needs a key of the scope `classify`; so a new route is
closed rather than open. Account routes are judged by the tokens of accounts alone (`app/api/dependencies.py`).
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import cast

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.dependencies import address_of, resources_of
from app.api.errors import error_response, log_error
from app.config.access import Network
from app.config.settings import Settings
from app.errors import (
    ApiKeyRequired,
    AppError,
    DashboardLoginRequired,
    InsufficientScope,
    MisdirectedRequest,
    NetworkNotAllowed,
    ServerBusy,
)
from app.server.waiting_line import HAS_NO_TURN, WAIT_SECONDS
from app.services.api_keys import key as keys
from app.services.api_keys.key import ApiKey
from app.services.api_keys.service import ApiKeyService

API_PREFIX = "/api/v1"
DASHBOARD_PATH = "/dashboard"
REVIEW_PATH = "/review"
REVIEW_API_PATH = f"{API_PREFIX}/review"
# A page of ours sends this field. Another site's page cannot without asking us first (CORS), and then the browser sends
# no password: so it cannot make an operator's browser change an entry.
OF_PAGE_FIELD = "x-requested-with"


class Area(StrEnum):
    """Paths that are open to the same callers."""

    PROBES = "probes"
    """Health checks: no key, and from every network, since a load balancer has neither."""
    PAGES = "pages"
    """Documentation, demo and their files: no key."""
    ACCOUNTS = "accounts"
    """Sign-up, library, inference: tokens of accounts, no key."""
    METRICS = "metrics"
    """No key; ADMIN_NETWORKS."""
    CLASSIFICATION = "classification"
    """Scope `classify`, as soon as there is a key or REQUIRE_API_KEY is set."""
    STATISTICS = "statistics"
    """Scope `stats`, as soon as there is a key or ADMIN_API_KEY, and with ENV=production; unless PUBLIC_STATISTICS."""
    ADMINISTRATION = "administration"
    """Scope `admin`, always."""


_PROBES = frozenset({"/health", "/health/live", f"{API_PREFIX}/health", f"{API_PREFIX}/health/live"})
# The first that fits counts.
_AREAS = (
    (f"{API_PREFIX}/stats", Area.STATISTICS),
    (f"{API_PREFIX}/requests", Area.STATISTICS),
    (DASHBOARD_PATH, Area.STATISTICS),
    (f"{API_PREFIX}/cache", Area.ADMINISTRATION),
    (f"{API_PREFIX}/tokens", Area.ADMINISTRATION),
    (REVIEW_API_PATH, Area.ADMINISTRATION),
    (REVIEW_PATH, Area.ADMINISTRATION),
    (f"{API_PREFIX}/users", Area.ADMINISTRATION),
    (f"{API_PREFIX}/jobs", Area.ACCOUNTS),
    (API_PREFIX, Area.CLASSIFICATION),
    ("/metrics", Area.METRICS),
    ("/users", Area.ACCOUNTS),
    ("/images", Area.ACCOUNTS),
    ("/models", Area.ACCOUNTS),
    ("/ws", Area.ACCOUNTS),
)
_SCOPES = {
    Area.CLASSIFICATION: keys.Scope.CLASSIFY,
    Area.STATISTICS: keys.Scope.STATS,
    Area.ADMINISTRATION: keys.Scope.ADMIN,
}
# By load balancers and Prometheus, which know no name.
_ASKED_BY_ADDRESS = frozenset({Area.PROBES, Area.METRICS})
# Files of pages come in dozens, and cost next to nothing.
_NOT_LIMITED = frozenset({Area.PROBES, Area.METRICS, Area.PAGES})
_ADMIN_AREAS = frozenset({Area.STATISTICS, Area.ADMINISTRATION, Area.METRICS})


def area_of(path: str) -> Area:
    """Return the area of a path, without the prefix of a proxy."""
    if path in _PROBES:
        return Area.PROBES
    return next(
        (area for beginning, area in _AREAS if path == beginning or path.startswith(f"{beginning}/")), Area.PAGES
    )


@dataclass(frozen=True, slots=True)
class _Networks:
    """What ALLOWED_NETWORKS and ADMIN_NETWORKS say; None: any address."""

    everyone: Callable[[str], bool] | None
    admins: Callable[[str], bool] | None


class AccessPolicy:
    """Decides about requests; one for each application."""

    def __init__(self, settings: Settings) -> None:
        access = settings.access
        self._requires_key = access.require_api_key
        self._public_statistics = access.public_statistics
        self._closes_statistics = settings.closes_statistics
        self._limits_addresses = access.requests_per_minute_per_address is not None
        self._hosts = frozenset(access.allowed_hosts)
        everyone = _membership(access.allowed_networks)
        self._networks = _Networks(everyone, _membership(access.admin_networks) or everyone)

    async def admit(self, scope: Scope, area: Area | None = None) -> None:
        """Let a request pass, once, and note in `state["api_key"]` with which key.

        Args:
            scope: of the request.
            area: what its path belongs to, where that is known.

        Raises:
            AppError: it may not pass.
        """
        state = scope["state"]
        if "is_admitted" in state:
            return
        if HAS_NO_TURN in state:
            raise ServerBusy(retry_after_seconds=WAIT_SECONDS)
        area = area or area_of(_path_of(scope))
        self._check_network(scope, area)
        if self._hosts and area not in _ASKED_BY_ADDRESS and not self._is_host(Headers(scope=scope).get("host", "")):
            raise MisdirectedRequest
        keys_of_service = resources_of(scope).api_keys
        needed = _SCOPES.get(area)
        state["is_admitted"] = True
        if needed is None or not self.needs_key(area, keys_of_service):
            if self._limits_addresses and area not in _NOT_LIMITED:
                await resources_of(scope).rate_limits.count_address(address_of(scope))
            return
        if area is Area.CLASSIFICATION and ("device" in state or "account" in state):
            # Its token was checked (app/api/credentials.py).
            return
        key = state.get("signing_key") or await _key_of(scope, area, keys_of_service)
        if not key.may(needed):
            if area is Area.ADMINISTRATION and _scheme_of(Headers(scope=scope)) == "basic":
                # A browser sends what was typed for the dashboard, and asks for another password after a 401 alone.
                raise DashboardLoginRequired
            raise InsufficientScope(details={"scope": needed})
        if key.rate_per_minute is not None:
            await resources_of(scope).rate_limits.count_key(key.id, key.rate_per_minute)
        state["api_key"] = key

    def still_admits(self, scope: Scope) -> bool:
        """Return whether a request that was let in, perhaps long ago, would be let in with its key now, too."""
        key: ApiKey | None = scope["state"].get("api_key")
        if key is not None:
            return resources_of(scope).api_keys.still_counts(key)
        return not self.needs_key(area_of(_path_of(scope)), resources_of(scope).api_keys)

    def needs_key(self, area: Area, keys_of_service: ApiKeyService | None) -> bool:
        """Return whether the paths of an area are closed, at this moment, to requests without a key.

        Args:
            area: of the paths.
            keys_of_service: the keys that there are; None: the service has not started, and knows of none.
        """
        key_exists = keys_of_service is not None and keys_of_service.exist
        if area is Area.CLASSIFICATION:
            return key_exists or self._requires_key
        if area is Area.STATISTICS:
            return not self._public_statistics and (self._closes_statistics or key_exists)
        return area is Area.ADMINISTRATION

    def _is_host(self, sent: str) -> bool:
        # Without the port; an IPv6 address has colons of its own, in brackets.
        host = re.sub(r":\d*$", "", sent.lower()).removesuffix(".")
        _, dot, parent = host.partition(".")
        return host in self._hosts or (bool(dot) and any(f"*.{name}" in self._hosts for name in _parents(parent)))

    def _check_network(self, scope: Scope, area: Area) -> None:
        contains = self._networks.admins if area in _ADMIN_AREAS else self._networks.everyone
        if contains is None or area is Area.PROBES:
            return
        # What has no address, such as a client at a Unix socket, is in no network.
        address = address_of(scope)
        if address is None or not contains(address):
            raise NetworkNotAllowed


def policy_of(scope: Scope) -> AccessPolicy:
    """The policy of the application that a request is for."""
    return cast("AccessPolicy", scope["app"].state.policy)


class AccessMiddleware:
    """Asks the policy about what the fast path has left; inside CORS, so that pages may read a refusal.

    A browser that is to show a page and has no key gets `login_page` instead of the error in the one format.
    """

    def __init__(self, app: ASGIApp, *, policy: AccessPolicy, login_page: Callable[[], Response]) -> None:
        self._app = app
        self._policy = policy
        self._login_page = login_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            try:
                await self._policy.admit(scope)
            except AppError as error:
                log_error(error)
                if scope["type"] == "websocket":
                    # Before it is accepted: the server answers 403.
                    await send({"type": "websocket.close", "code": 1008, "reason": error.code})
                    return
                response = error_response(error, scope)
                if isinstance(error, DashboardLoginRequired) and _shows_pages(scope):
                    page = self._login_page()
                    page.status_code = response.status_code
                    page.headers["WWW-Authenticate"] = response.headers["WWW-Authenticate"]
                    response = page
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _shows_pages(scope: Scope) -> bool:
    """Browsers name text/html in Accept when they ask for a page; programs, and the scripts of a page, do not."""
    return "text/html" in Headers(scope=scope).get("accept", "") and _path_of(scope) in {DASHBOARD_PATH, REVIEW_PATH}


async def _key_of(scope: Scope, area: Area, keys_of_service: ApiKeyService) -> ApiKey:
    """Return the key of a request.

    Raises:
        ApiKeyRequired, InvalidApiKey, DashboardLoginRequired: it has none that counts.
        TooManyWrongKeys: too many from its address were wrong.
    """
    headers, path = Headers(scope=scope), _path_of(scope)
    is_page = path.startswith((DASHBOARD_PATH, REVIEW_PATH)) or (
        path.startswith(REVIEW_API_PATH) and OF_PAGE_FIELD in headers
    )
    credential = _credential(headers, takes_basic=is_page or area is Area.STATISTICS)
    try:
        return await keys_of_service.identify(credential, address_of(scope))
    except ApiKeyRequired as error:
        if is_page:
            # A browser asks for name and password then.
            raise DashboardLoginRequired from error
        raise


def _credential(headers: Headers, *, takes_basic: bool) -> str:
    """Return what a request sends as its key, "" where it sends none. X-API-Key wins."""
    if (key := headers.get("x-api-key")) is not None:
        return key
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip()
        case "basic" if takes_basic:
            # What a browser sends after a page has asked: any name, and the key as password (RFC 7617).
            try:
                return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2].decode("utf-8")
            except (binascii.Error, ValueError):
                return ""
    return ""


def _scheme_of(headers: Headers) -> str:
    return headers.get("authorization", "").partition(" ")[0].lower()


def _path_of(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _parents(name: str) -> Iterator[str]:
    """Yield a name and those above it: a.example.com, example.com, com."""
    while name:
        yield name
        name = name.partition(".")[2]


def _membership(networks: tuple[Network, ...]) -> Callable[[str], bool] | None:
    """Return what says whether an address is in one of the networks; None where there are none."""
    if not networks:
        return None

    @lru_cache(maxsize=10_000)
    def contains(address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in networks)

    return contains
