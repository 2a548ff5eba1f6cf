"""SQL in text form, which the busiest transaction needs made once, and what differs between the databases.

`dialect` is SQLAlchemy's name: mysql, mariadb or sqlite.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CursorResult, Dialect, Integer
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


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
        dialect: for which database.
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


def insert_ignore(dialect: str) -> str:
    """Return how an INSERT begins that leaves out rows whose key is taken."""
    return "INSERT OR IGNORE INTO" if dialect == "sqlite" else "INSERT IGNORE INTO"


def inserted_rows(dialect: str) -> str:
    """Return an expression: how many rows the statement before has inserted."""
    return "changes()" if dialect == "sqlite" else "ROW_COUNT()"


def smaller_of(dialect: str, one: str, other: str) -> str:
    """Return an expression: the smaller of two values."""
    return f"{'MIN' if dialect == 'sqlite' else 'LEAST'}({one}, {other})"


def larger_of(dialect: str, one: str, other: str) -> str:
    """Return an expression: the larger of two values."""
    return f"{'MAX' if dialect == 'sqlite' else 'GREATEST'}({one}, {other})"


def can_update_joined(dialect: str) -> bool:
    """Return whether an UPDATE takes its values from a joined table."""
    return dialect != "sqlite"


def hamming_distance(dialect: str, one: str, other: str) -> str:
    """Return an expression: in how many of 64 bits two numbers differ."""
    # SQLite has neither; the engine gives its connections the function.
    return f"HAMMING_DISTANCE({one}, {other})" if dialect == "sqlite" else f"BIT_COUNT({one} ^ {other})"


def runs_in_process(dialect: str) -> bool:
    """Return whether a query costs no trip to a server; then all writers wait for each other."""
    return dialect == "sqlite"


class EpochSeconds(FunctionElement[int]):
    """The seconds from 1970 to a DATETIME, both in UTC."""

    type = Integer()
    inherit_cache = True


@compiles(EpochSeconds)
def _epoch_seconds(element: EpochSeconds, compiler: SQLCompiler, **options: Any) -> str:
    return f"TIMESTAMPDIFF(SECOND, '1970-01-01 00:00:00', {compiler.process(element.clauses, **options)})"


@compiles(EpochSeconds, "sqlite")
def _epoch_seconds_on_sqlite(element: EpochSeconds, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(STRFTIME('%s', {compiler.process(element.clauses, **options)}) AS INTEGER)"


def timestamp_text(moment: datetime) -> str:
    """Return an aware time as every database's DATETIME takes it: UTC, and on SQLite of this very form."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def seconds_from_now(dialect: str, seconds: int) -> str:
    """Return an expression: the database's own time in UTC, to the millisecond, `seconds` later (or earlier)."""
    if dialect == "sqlite":
        return f"strftime('%Y-%m-%d %H:%M:%f', 'now', '{seconds:+d} seconds')"
    return f"UTC_TIMESTAMP(3) + INTERVAL {seconds} SECOND"


def seconds_before(dialect: str, column: str, seconds: int) -> str:
    """Return an expression: the time in a column, `seconds` earlier."""
    if dialect == "sqlite":
        return f"strftime('%Y-%m-%d %H:%M:%f', {column}, '-{seconds} seconds')"
    return f"{column} - INTERVAL {seconds} SECOND"


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
