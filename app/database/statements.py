"""SQL in text form for the busiest transaction, which cannot afford to have its statements put together each time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CursorResult, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `text` has a `%s` for each of `parameters`, on every database, and no other percent sign."""

    text: str
    parameters: Sequence[object] = ()


def rows_of_placeholders(rows: int, columns: int) -> str:
    """Return "(%s,%s),(%s,%s)": what stands after VALUES."""
    row = "(" + ",".join(["%s"] * columns) + ")"
    return ",".join([row] * rows)


def upsert(dialect: str, *, table: str, keys: Sequence[str], updates: dict[str, str], columns: str, source: str) -> str:
    """Return an INSERT that changes the existing row instead where the key is taken.

    Args:
        dialect: SQLAlchemy's name: mysql, mariadb or sqlite.
        table: name of the table.
        keys: columns of its primary key.
        updates: column -> expression of its new value, in which `{new}` stands for the value that was to be inserted.
        columns: comma-separated columns that are inserted.
        source: "VALUES ..." or "SELECT ...".
    """
    # VALUES() is the one form that both MySQL and MariaDB understand.
    new, clause = "VALUES({})", "ON DUPLICATE KEY UPDATE"
    if dialect == "sqlite":
        new, clause = "excluded.{}", f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET"
    changes = ", ".join(f"{column} = {change.format(new=new.format(column))}" for column, change in updates.items())
    return f"INSERT INTO {table} ({columns}) {source} {clause} {changes}"


def timestamp_text(moment: datetime) -> str:
    """Return an aware time as every database's DATETIME takes it: UTC, and on SQLite of this very form."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def seconds_from_now(dialect: str, seconds: int) -> str:
    """Return an expression: the database's own time in UTC, to the millisecond, `seconds` later (or earlier)."""
    if dialect == "sqlite":
        return f"strftime('%Y-%m-%d %H:%M:%f', 'now', '{seconds:+d} seconds')"
    return f"UTC_TIMESTAMP(3) + INTERVAL {seconds} SECOND"


def can_skip_locked(dialect: Dialect) -> bool:
    """Return whether the server knows FOR UPDATE SKIP LOCKED; `dialect` is that of an open connection.

    SQLite, which has one writer, is sent no FOR UPDATE at all.
    """
    # https://dev.mysql.com/doc/refman/8.0/en/innodb-locking-reads.html, https://mariadb.com/kb/en/select/#skip-locked
    oldest = (10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0, 1)
    return (dialect.server_version_info or ()) >= oldest


async def execute(connection: AsyncConnection, statement: Statement) -> CursorResult[Any]:
    """Run one statement as it stands, in the connection's transaction."""
    # sqlite3 writes a placeholder as a question mark.
    text = statement.text.replace("%s", "?") if connection.dialect.name == "sqlite" else statement.text
    return await connection.exec_driver_sql(text, tuple(statement.parameters))
