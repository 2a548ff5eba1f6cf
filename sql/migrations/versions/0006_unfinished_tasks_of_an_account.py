"""An index to count an account's unfinished tasks by, however many have ended."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLE = "inference_task"
COLUMNS = ["user_id", "status"]


def upgrade() -> None:
    # It is there already where a DBA has run the newer init.sql, or where an upgrade was cut off after this statement.
    if _name() not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(TABLE)}:
        op.create_index(_name(), TABLE, COLUMNS)


def downgrade() -> None:
    op.drop_index(_name(), TABLE)


def _name() -> str:
    # An index name belongs to the whole database on SQLite, to its table on MySQL.
    return f"{TABLE}_idx_user_status" if op.get_context().dialect.name == "sqlite" else "idx_user_status"
