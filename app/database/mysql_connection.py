"""Opening a MySQL connection: within a bounded time, never in plain text where TLS is asked for, and knowing to whom.

aiomysql by itself goes on without TLS when the server, or an attacker in between, does not offer it, may send the
password in the clear then, and waits without end on a server that accepts a connection and says nothing more.
"""

import asyncio
from typing import Any

import aiomysql
from pymysql.constants import CLIENT, CR, ER
from pymysql.err import MySQLError, OperationalError

# With TLS and the handshake. Below half of what a transaction may take, so that there can be a second try.
CONNECT_TIMEOUT_SECONDS = 2.0

# Error numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
# 1927 is MariaDB's "connection was killed".
LOST_CONNECTION = frozenset({1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031})
# Of the server, of all users together, of this user.
TOO_MANY_CONNECTIONS = frozenset({1040, 1203, 1226})
SERVER_SHUTDOWN = frozenset({1053})


class _Connection(aiomysql.Connection):  # type: ignore[misc]  # aiomysql has no types
    # Whether the server is a node of a Galera cluster (MariaDB, Percona XtraDB Cluster).
    is_galera_node = False

    async def ask_who_answers(self) -> None:
        """Set `is_galera_node`. Behind a proxy each connection may lead to another server."""
        async with self.cursor() as cursor:
            try:
                await cursor.execute("SELECT @@wsrep_on")
            except MySQLError as error:
                if error.args[0] != ER.UNKNOWN_SYSTEM_VARIABLE:
                    raise
                return
            [(value,)] = await cursor.fetchall()
            self.is_galera_node = bool(value)

    async def _request_authentication(self) -> None:
        # The last moment before anything of ours is sent; aiomysql has no public one.
        if self._ssl_context and not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server does not speak TLS, and MYSQL_SSL is true")
        await super()._request_authentication()

    def _write_bytes(self, data: bytes) -> None:
        try:
            super()._write_bytes(data)
        except RuntimeError as error:
            # What uvloop says of an idle connection that was reset; asyncio has an OSError for it.
            raise OperationalError(CR.CR_SERVER_GONE_ERROR, "the connection was reset") from error

    async def show_warnings(self) -> None:
        # aiomysql would ask for them after an INSERT IGNORE: a round trip, a Python warning for each row, and
        # ROW_COUNT() would then speak of SHOW WARNINGS.
        return None


async def connect(**options: Any) -> aiomysql.Connection:
    """Open a connection; `options` are those of `aiomysql.connect`.

    Raises:
        OperationalError: the server cannot be reached in time, refuses us, or does not speak TLS where it must.
    """
    connection = _Connection(**options)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await connection._connect()  # noqa: SLF001 - what aiomysql.connect itself calls
            await connection.ask_who_answers()
    except TimeoutError:
        connection.close()
        raise OperationalError(CR.CR_CONN_HOST_ERROR, "the server does not answer") from None
    except BaseException:
        connection.close()
        raise
    return connection


async def probe(**options: Any) -> None:
    """Return if the server answers a new connection; a refusal is an answer too, and says itself what is amiss.

    Args:
        options: those of `connect`.

    Raises:
        OperationalError, OSError: it does not answer, or has no connection left.
    """
    try:
        connection = await connect(**options)
    except MySQLError as error:
        if error.args[0] in LOST_CONNECTION | TOO_MANY_CONNECTIONS | SERVER_SHUTDOWN:
            raise
    else:
        try:
            await connection.ensure_closed()
        finally:
            # Also when the probe is cancelled while it says good-bye.
            connection.close()
