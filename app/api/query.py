"""A query parameter that a route does not know is an error: a misspelt filter must not look as if it had filtered."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request

from app.api.middleware import route_of
from app.errors import InvalidRequest


async def refuse_unknown_parameters(request: Request) -> None:
    """Do nothing if the route declares all parameters of the request's query, in the OpenAPI document.

    Raises:
        InvalidRequest: it does not; the details name those that it knows.
    """
    if not request.scope["query_string"]:
        return
    known = await _declared(request.app, route_of(request.scope), request.method)
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        names = ", ".join(sorted(known)) or "-"
        raise InvalidRequest(
            "Unknown query parameter {name!r}; this address knows: {known}.",
            values={"name": unknown[0][:100], "known": names},
            details={"known": sorted(known)},
        )


async def _declared(app: FastAPI, route: str, method: str) -> set[str]:
    # The first time, the document is made, which takes a part of a second.
    document: Any = app.openapi_schema or await asyncio.to_thread(app.openapi)
    operation = document["paths"].get(route, {}).get(method.lower(), {})
    return {each["name"] for each in operation.get("parameters", []) if each["in"] == "query"}
