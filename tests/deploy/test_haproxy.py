"""deploy/haproxy.cfg asks each node how it is, in bytes; the servers here must understand them.

Its other half, what it does with the answers, is in tests/scaling.
"""

import re
import socket

import pytest
from sqlalchemy.engine import make_url

from app.config.settings import PROJECT_ROOT
from tests.servers.databases import Servers
from tests.support.databases import admin_engine
from tests.support.service_settings import server_url

CHECK_USER = "haproxy_check"


@pytest.mark.parametrize("kind", ["mysql", "mariadb"])
async def test_servers_of_both_kinds_let_the_check_in(kind: str, servers: Servers) -> None:
    """MariaDB's way of logging in and that of MySQL 8, which Percona XtraDB Cluster has, are not the same."""
    configuration = (PROJECT_ROOT / "deploy" / "haproxy.cfg").read_text()
    steps = re.findall(r"tcp-check (send-binary|expect binary|expect string) (\S+)", configuration)
    url = server_url(servers, kind)
    async with admin_engine(url) as engine, engine.connect() as connection:
        await connection.exec_driver_sql(f"CREATE USER IF NOT EXISTS {CHECK_USER}")
        try:
            with socket.create_connection(("127.0.0.1", make_url(url).port or 0), timeout=120) as check:
                # HAProxy, too, looks into all that has come since its last step.
                heard = check.recv(4096)
                for what, value in steps:
                    if what == "send-binary":
                        check.sendall(bytes.fromhex(value))
                        heard = check.recv(4096)
                    elif what == "expect binary":
                        assert bytes.fromhex(value) in heard, heard
                    else:
                        # They are no nodes of a cluster; but they say so, and do not refuse the question.
                        assert b"Variable_name" in heard, heard
        finally:
            await connection.exec_driver_sql(f"DROP USER {CHECK_USER}")
