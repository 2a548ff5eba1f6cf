"""What the tables are made of: the base class, types of columns, defaults and options."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Integer,
    Numeric,
    SmallInteger,
    String,
    TypeDecorator,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.functions import FunctionElement

UnsignedBigInteger = (
    BigInteger().with_variant(mysql.BIGINT(unsigned=True), "mysql", "mariadb").with_variant(Integer(), "sqlite")
)
UnsignedInteger = Integer().with_variant(mysql.INTEGER(unsigned=True), "mysql", "mariadb")
TinyInteger = SmallInteger().with_variant(mysql.TINYINT(display_width=1), "mysql", "mariadb")
TinyUnsignedInteger = SmallInteger().with_variant(mysql.TINYINT(unsigned=True), "mysql", "mariadb")
Confidence = Numeric(5, 4)
# A heartbeat is judged after three seconds: whole seconds would cut off a good part of it.
Milliseconds = DateTime().with_variant(mysql.DATETIME(fsp=3), "mysql", "mariadb")
TABLE_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_unicode_ci",
}
LANGUAGE_MAX_LENGTH = 8
# An id is never given out twice, also not by SQLite: the token of a deleted account would count for the next one.
ACCOUNT_OPTIONS = {**TABLE_OPTIONS, "sqlite_autoincrement": True}


class UtcDateTime(TypeDecorator[datetime]):
    """DATETIME that holds UTC: aware values go in and come out, naive ones are refused."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class CurrentTimestampOnUpdate(FunctionElement[datetime]):
    """Default that MySQL also applies at every change of the row; SQLite knows only the plain default."""

    inherit_cache = True


@compiles(CurrentTimestampOnUpdate)
def _current_timestamp(element: CurrentTimestampOnUpdate, compiler: Any, **options: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(CurrentTimestampOnUpdate, "mysql")
@compiles(CurrentTimestampOnUpdate, "mariadb")
def _current_timestamp_on_update(element: CurrentTimestampOnUpdate, compiler: Any, **options: Any) -> str:
    return "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"


def current_timestamp() -> TextClause:
    """Server default of a creation time."""
    return text("CURRENT_TIMESTAMP")


def comparison_key(length: int) -> Any:
    """Return the type of text that is compared byte by byte."""
    binary = mysql.VARCHAR(length, collation="utf8mb4_bin")
    return String(length).with_variant(binary, "mysql", "mariadb")


class Base(DeclarativeBase):
    """Base of all tables."""
