"""Feedback: what users say of answers, and what was done by hand to the entries of the cache."""

import sqlalchemy as sa
from alembic import op

from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.migration_steps import create_index, create_table
from app.database.tables.columns import TinyInteger, UnsignedBigInteger

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "feedback",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("voter", sa.String(64), nullable=False, comment="投票者(SHA-256)"),
        sa.Column("counted_as", sa.String(64), nullable=False, comment="按谁计数(SHA-256)"),
        sa.Column("network", sa.String(64), comment="匿名者的网络(SHA-256)"),
        sa.Column("user_hash", sa.String(64), comment="用户ID的SHA-256"),
        sa.Column("category", sa.String(50), nullable=False, comment="用户认为的分类"),
        sa.Column("comment", sa.String(500), comment="备注"),
        sa.Column("answered_category", sa.String(50), nullable=False, comment="当时回答的分类"),
        sa.Column("answered_model", sa.String(MODEL_NAME_MAX_LENGTH), nullable=False, comment="当时回答的模型"),
        sa.Column(
            "is_dismissed",
            TinyInteger,
            server_default=sa.text("'0'"),
            nullable=False,
            comment="是否被运维驳回(0-否 1-是)",
        ),
        sa.Column("created_at", sa.DateTime, nullable=False, comment="最近一次提交时间"),
        comment="用户反馈",
    )
    create_index("feedback", "uk_image_voter", "image_hash", "voter", unique=True)
    create_index("feedback", "idx_user_hash", "user_hash")
    create_index("feedback", "idx_created_at", "created_at")
    create_table(
        "cache_history",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("changed_at", sa.DateTime, nullable=False, comment="修改时间"),
        sa.Column("action", sa.String(16), nullable=False, comment="操作"),
        sa.Column("actor", sa.String(128), nullable=False, comment="操作者"),
        sa.Column("entry_before", sa.JSON, comment="修改前"),
        sa.Column("entry_after", sa.JSON, comment="修改后"),
        sa.Column("undone_at", sa.DateTime, comment="撤销时间"),
        comment="缓存条目的人工修改历史",
    )
    create_index("cache_history", "idx_image_hash", "image_hash", "id")
    create_index("cache_history", "idx_action", "action", "changed_at")


def downgrade() -> None:
    op.drop_table("cache_history")
    op.drop_table("feedback")
