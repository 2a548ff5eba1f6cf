"""Which storage belongs to this database, and when it was last swept."""

import sqlalchemy as sa
from alembic import op

from app.database.tables.columns import TABLE_OPTIONS, Milliseconds, TinyUnsignedInteger

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A DBA may have run the newer init.sql.
    if sa.inspect(op.get_bind()).has_table("library_state"):
        return
    op.create_table(
        "library_state",
        sa.Column("id", TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="固定为1"),
        sa.Column("library_id", sa.String(32), nullable=False, comment="图片库ID(与存储中的标记一致)"),
        sa.Column("swept_at", Milliseconds, nullable=False, comment="最近一次清理的开始时间"),
        comment="图片库状态",
        **TABLE_OPTIONS,
    )


def downgrade() -> None:
    op.drop_table("library_state")
