"""First answers of requests with an Idempotency-Key, and which changes of the cache were made by hand.

A first answer is not given again when a person has changed the entry that it told. An answer of the local model that
another model's replaces is no such change. Rows of before count as changes by hand, and are gone after a day.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from app.database.migration_steps import add_column, create_index, create_table
from app.database.tables.columns import Milliseconds, TinyInteger, UnsignedBigInteger, comparison_key

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_BODY = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    create_table(
        "idempotent_answer",
        sa.Column("key_hash", sa.String(64), primary_key=True, comment="调用方、路径与幂等键的SHA-256"),
        sa.Column("fingerprint", sa.String(64), nullable=False, comment="请求内容的SHA-256"),
        sa.Column("request_id", sa.String(64), nullable=False, comment="首次请求的ID"),
        sa.Column("user_id", comparison_key(64), comment="用户ID/设备ID"),
        sa.Column(
            "image_id", UnsignedBigInteger, sa.ForeignKey("library_image.id", ondelete="CASCADE"), comment="图片"
        ),
        sa.Column("body", _BODY, nullable=False, comment="首次应答的正文"),
        sa.Column("created_at", Milliseconds, nullable=False, comment="创建时间(UTC), 24小时后删除"),
        comment="带幂等键请求的首次应答",
    )
    create_index("idempotent_answer", "idx_created_at", "created_at")
    create_index("idempotent_answer", "idx_user_id", "user_id")
    create_index("idempotent_answer", "idx_image_id", "image_id")
    by_hand = sa.Column(
        "by_hand", TinyInteger, nullable=False, server_default=sa.text("'1'"), comment="是否人工修改(0-否 1-是)"
    )
    add_column("cache_change", by_hand)
    create_index("cache_change", "idx_image_hash", "image_hash", "changed_at")


def downgrade() -> None:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    op.drop_index("cache_change_idx_image_hash" if is_sqlite else "idx_image_hash", "cache_change")
    op.drop_column("cache_change", "by_hand")
    op.drop_table("idempotent_answer")
