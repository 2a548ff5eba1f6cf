"""Questions to the servers of a test run."""

import os
import ssl
from typing import Any

import aiomysql
import pytest
from sqlalchemy.engine import make_url

from scripts.mysql_instance import greeting

own_servers = pytest.mark.skipif(bool(os.environ.get("TEST_MYSQL_URL")), reason="TEST_MYSQL_URL is a server of its own")


async def query(url: str, sql: str, tls: ssl.SSLContext | None = None) -> Any:
    """Return the first row of a statement's answer, through the app's own driver."""
    parts = make_url(url)
    connection = await aiomysql.connect(
        host=parts.host, port=parts.port, user=parts.username, password=parts.password or "", ssl=tls
    )
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            return await cursor.fetchone()
    finally:
        await connection.ensure_closed()


def takes_connections(url: str) -> bool:
    parts = make_url(url)
    assert parts.host is not None
    assert parts.port is not None
    return greeting((parts.host, parts.port)) is not None
