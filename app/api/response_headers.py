"""What every answer says to browsers: no guessing of types, no frame around it, nothing to load; and where to go on.

A page of ours brings a Content-Security-Policy of its own (`app/web/pages.py`, `app/web/documentation.py`).
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import Scope

Header = tuple[bytes, bytes]

_CONTENT_SECURITY_POLICY = b"content-security-policy"
# For what is no page, such as JSON that a browser is led to.
_HEADERS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (_CONTENT_SECURITY_POLICY, b"default-src 'none'; frame-ancestors 'none'"),
)
# A year, as https://hstspreload.org asks; browsers ignore it where the certificate is not valid.
_HSTS: Header = (b"strict-transport-security", b"max-age=31536000")
_REDIRECTS = range(300, 400)
_LOCATION = b"location"


def secured(headers: Iterable[Header], scope: Scope, status: int) -> list[Header]:
    """Return the headers of an answer and what every answer has; what the answer says itself stays.

    Args:
        headers: of the answer, their names in lower case.
        scope: of the request; its scheme is what a trusted proxy says of its own connection.
        status: of the answer.
    """
    present = {name for name, _ in headers}
    added = [header for header in _HEADERS if header[0] not in present]
    if scope["scheme"] in {"https", "wss"}:
        added.append(_HSTS)
    if status in _REDIRECTS and _LOCATION in present:
        headers = [(name, _relative(scope["path"], value) if name == _LOCATION else value) for name, value in headers]
    return [*headers, *added]


def _relative(path: str, location: bytes) -> bytes:
    """Return a redirection to another address of ours without the host, which a client may have invented.

    The framework redirects only to the same path with or without a slash at its end: that is said relative to the last
    part of the path, so that it holds behind a proxy that takes a prefix away.
    """
    parts = urlsplit(location.decode("latin-1"))
    if not parts.netloc:
        return location
    last = parts.path.rstrip("/").rpartition("/")[2]
    # "./" since a part such as "a:b" would be taken for a scheme.
    target = f"../{last}" if path.endswith("/") else f"./{last}/"
    return (target + (f"?{parts.query}" if parts.query else "")).encode("latin-1")
