"""Requests through nginx, and what their answers must be."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from app.errors import AppError
from tests.servers.nginx import Nginx

OUTSIDE = "127.0.0.2"
CLASSIFY = "/api/v1/classify"


@contextmanager
def client(nginx: Nginx, source: str = OUTSIDE) -> Iterator[httpx2.Client]:
    """A client with an address of its own, which is not nginx's."""
    transport = httpx2.HTTPTransport(local_address=source)
    with httpx2.Client(base_url=f"http://127.0.0.1:{nginx.port}", transport=transport, timeout=120) as api:
        yield api


def assert_is(error: type[AppError], answer: httpx2.Response) -> None:
    """The answer is that error in the one format, of nginx or of the service."""
    body = answer.json()
    assert answer.status_code == error.status, body
    assert answer.headers["Content-Type"] == "application/json"
    assert body.keys() == {"success", "error", "request_id", "timestamp"}
    assert body["error"].keys() == {"code", "message", "details"}
    assert (body["success"], body["error"]["code"]) == (False, error.code)
    assert re.fullmatch(r"req_\d{10}_[0-9a-f]{12}", body["request_id"])
    assert answer.headers.get_list("X-Request-ID") == [body["request_id"]]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", body["timestamp"])
