"""Addresses in settings. They may hold passwords, so no message repeats them."""

import re
from urllib.parse import urlsplit

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
