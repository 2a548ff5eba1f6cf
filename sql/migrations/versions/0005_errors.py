"""How many answers failed, for the statistics."""

import sqlalchemy as sa
from alembic import op

from app.database.tables.columns import TABLE_OPTIONS, TinyUnsignedInteger, UnsignedBigInteger

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # MySQL commits each table by itself: a DBA may have run the newer init.sql.
    if sa.inspect(op.get_bind()).has_table("stats_error"):
        return
    op.create_table(
        "stats_error",
        sa.Column("period_start", sa.DateTime, primary_key=True, comment="时段开始(UTC, 15分钟)"),
        sa.Column("code", sa.String(64), primary_key=True, comment="错误码"),
        sa.Column("shard", TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片"),
        sa.Column("errors", UnsignedBigInteger, nullable=False, comment="错误数"),
        comment="分时段错误数",
        **TABLE_OPTIONS,
    )


def downgrade() -> None:
    op.drop_table("stats_error")
