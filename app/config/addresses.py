"""Addresses in settings. They may hold passwords, so no message repeats them."""

import re
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError


def is_redis_address(address: str) -> bool:
    """Whether redis-py is told by this address where to go, and nothing else."""
    try:
        parts = urlsplit(address)
        # Reading the port checks it. Options after '?' would win over our time limits.
        return bool(
            parts.scheme in {"redis", "rediss"}
            and parts.hostname
            and (parts.port is None or parts.port)
            and re.fullmatch(r"/?|/\d{1,5}", parts.path)
            and not parts.query
            and not parts.fragment
        )
    except ValueError:
        return False


class Bucket(NamedTuple):
    """Where files lie in S3; `endpoint` None is Amazon's."""

    name: str
    prefix: str
    endpoint: str | None


def bucket_of(address: str) -> Bucket:
    """Return what s3://bucket/prefix?endpoint=https://host names.

    Raises:
        ValueError: it is no such address; the text does not repeat it.
    """
    wrong = ValueError("not s3://bucket, s3://bucket/prefix, or the same with ?endpoint=https://host")
    try:
        parts = urlsplit(address)
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        (endpoint,) = query.pop("endpoint", [""])
        at = urlsplit(endpoint or "https://s3")
    except ValueError:
        raise wrong from None
    # Bucket names: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    if parts.scheme != "s3" or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", parts.netloc):
        raise wrong
    # Credentials belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, not here.
    if query or parts.fragment or at.scheme not in {"http", "https"} or not at.hostname or "@" in at.netloc:
        raise wrong
    return Bucket(parts.netloc, parts.path.strip("/"), endpoint or None)


_ASYNCIO_DRIVERS = {"mysql": "mysql+aiomysql", "mariadb": "mariadb+aiomysql", "sqlite": "sqlite+aiosqlite"}


def with_asyncio_driver(address: str) -> URL:
    """Return the SQLAlchemy URL of a database, with the driver that we use.

    Raises:
        ValueError: it is not the address of a MySQL, MariaDB or SQLite database; the text does not repeat it.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        # SQLAlchemy's own message repeats the address, password included.
        raise ValueError("DATABASE_URL is not a database address") from None
    driver = _ASYNCIO_DRIVERS.get(url.get_backend_name())
    if driver is None:
        raise ValueError("DATABASE_URL must begin with mysql://, mariadb:// or sqlite:///")
    if not url.database or url.database == ":memory:":
        raise ValueError("DATABASE_URL must name a database: mysql://user:password@host/NAME or sqlite:///FILE")
    # The character set is always utf8mb4; what else drivers take there has settings of its own (MYSQL_SSL ...).
    if set(url.query) - {"charset"}:
        raise ValueError("DATABASE_URL takes no options after '?'; use the MYSQL_* settings")
    return url.set(drivername=driver, query={})
