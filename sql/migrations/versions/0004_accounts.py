"""Accounts that an operator disables, and user ids that are compared byte by byte.

The specification's collation takes "Device-A" and "device-a", `áccount:5` and `account:5` for one user, as SQLite does
not. On MySQL the change of `request_log.user_id` copies the table. For two million rows (0.94 GB with their
indexes) that took 311 s, on MySQL 9.7 with a buffer pool of 512 MB and two cores that were busy with other work.
"""

# ruff: noqa: S608 - constants of this file

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import add_column
from app.database.tables.columns import TABLE_OPTIONS, comparison_key

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BINARY = "utf8mb4_bin"
USER_ID, VISITOR = "用户ID/设备ID", "用户ID或IP地址"
# Table, column, comment, whether it may be NULL.
IDS = (
    ("request_log", "user_id", USER_ID, True),
    ("stats_user", "user_id", USER_ID, False),
    ("stats_visitor", "visitor", VISITOR, False),
)

# Primary keys that hold an id, which is their last column.
KEYS = {"stats_user": ("user_id",), "stats_visitor": ("day", "kind", "visitor")}


def upgrade() -> None:
    add_column("users", sa.Column("disabled_at", sa.DateTime, comment="停用时间(空为可用)"))
    for table, column, comment, is_nullable in IDS:
        if _collation(table, column) not in {None, BINARY}:
            _change(table, column, comparison_key(64), comment=comment, is_nullable=is_nullable)


def downgrade() -> None:
    """Refused where two ids would be one again: their sums cannot be told apart, and nothing is changed."""
    for table, key in KEYS.items():
        if _collation(table, key[-1]) == BINARY and (same := _same_ids(table, key)):
            raise RuntimeError(
                f"{table} has {same} ids of which the earlier collation would make one with another (they differ in"
                " case or accents only): restore a backup from before revision 0004, or delete these rows first."
            )
    for table, column, comment, is_nullable in IDS:
        if _collation(table, column) == BINARY:
            _change(table, column, sa.String(64), comment=comment, is_nullable=is_nullable)
    op.drop_column("users", "disabled_at")


def _same_ids(table: str, key: tuple[str, ...]) -> int:
    """Return how many keys the earlier collation takes for one with another."""
    earlier = f"{', '.join(key)} COLLATE {TABLE_OPTIONS['mysql_collate']}"
    same = f"SELECT COUNT(*) AS found FROM {table} GROUP BY {earlier} HAVING COUNT(*) > 1"
    return int(op.get_bind().scalar(sa.text(f"SELECT COUNT(*) FROM ({same}) AS same")) or 0)


def _collation(table: str, column: str) -> str | None:
    """Return the collation of a column, None on SQLite, which compares byte by byte anyway."""
    if op.get_context().dialect.name == "sqlite":
        return None
    columns = sa.inspect(op.get_bind()).get_columns(table)
    kind: Any = next(each["type"] for each in columns if each["name"] == column)
    collation: str | None = kind.collation
    # MySQL does not repeat at the column what is the table's own.
    return collation or "the table's"


def _change(table: str, column: str, kind: Any, *, comment: str, is_nullable: bool) -> None:
    op.alter_column(
        table, column, type_=kind, existing_nullable=is_nullable, nullable=is_nullable, comment=comment,
        existing_comment=comment,
    )  # fmt: skip
