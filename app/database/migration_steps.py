"""Steps of migrations that may run again: MySQL commits each by itself, so an upgrade that was cut off left some."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.database.tables.columns import TABLE_OPTIONS


def create_table(name: str, *columns: sa.Column[Any], comment: str, sqlite_autoincrement: bool = False) -> None:
    """Create a table if it is not there."""
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *columns, comment=comment, sqlite_autoincrement=sqlite_autoincrement, **TABLE_OPTIONS)


def create_index(table: str, name: str, *columns: str, unique: bool = False) -> None:
    """Create an index if it is not there; its name belongs to the whole database on SQLite, to its table on MySQL."""
    if op.get_context().dialect.name == "sqlite":
        name = f"{table}_{name}"
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns, unique=unique)


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column at the end of a table if it is not there."""
    if column.name not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)


def drop_index(table: str, name: str) -> None:
    """Drop an index if it is there; named as in `create_index`."""
    if op.get_context().dialect.name == "sqlite":
        name = f"{table}_{name}"
    if name in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.drop_index(name, table)
