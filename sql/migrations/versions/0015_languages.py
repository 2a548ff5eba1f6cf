"""Descriptions by language: that of an entry, further ones, and the one that a task or a photo of a batch asks for.

Rows of before say nothing of a language; it is told by the characters of their description then.
"""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import add_column, create_table
from app.database.tables.columns import UnsignedBigInteger

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# At the end and without a default: MySQL and MariaDB do not rewrite the tables, of which the first may have millions of
# rows.
COLUMNS = {
    "image_classification_cache": "描述的语言(zh/en)",
    "inference_task": "所要的描述语言(zh/en)",
    "model_batch_item": "所要的描述语言(zh/en)",
}


def upgrade() -> None:
    for table, comment in COLUMNS.items():
        add_column(table, sa.Column("language", sa.String(8), comment=comment))
    create_table(
        "cache_description",
        sa.Column(
            "entry_id",
            UnsignedBigInteger,
            sa.ForeignKey("image_classification_cache.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            comment="缓存条目",
        ),
        sa.Column("language", sa.String(8), primary_key=True, comment="描述的语言(zh/en)"),
        sa.Column("description", sa.Text, comment="图片描述"),
        sa.Column("model_used", sa.String(255), nullable=False, comment="使用的模型"),
        sa.Column("cost_micros", UnsignedBigInteger, nullable=False, comment="得到该描述的费用(CURRENCY的百万分之一)"),
        sa.Column("created_at", sa.DateTime, nullable=False, comment="创建时间"),
        comment="缓存条目的其它语言描述",
    )


def downgrade() -> None:
    op.drop_table("cache_description")
    for table in COLUMNS:
        op.drop_column(table, "language")
