"""The cache of classified images and the request log."""

import sqlalchemy as sa
from alembic import op

from app.database.tables.columns import (
    TABLE_OPTIONS,
    Confidence,
    CurrentTimestampOnUpdate,
    TinyInteger,
    UnsignedBigInteger,
    UnsignedInteger,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "image_classification_cache",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("category", sa.String(50), nullable=False, comment="分类Key（8个预定义类别之一）"),
        sa.Column("confidence", Confidence, nullable=False, comment="置信度(0-1)"),
        sa.Column("description", sa.Text, comment="图片描述"),
        sa.Column("model_used", sa.String(50), nullable=False, comment="使用的模型"),
        sa.Column("model_response", sa.JSON, comment="完整模型响应"),
        sa.Column("hit_count", UnsignedInteger, server_default=sa.text("'1'"), comment="缓存命中次数"),
        sa.Column(
            "created_at",
            sa.DateTime,
            nullable=False,
            server_default=sa.text("CURRENT_TIMESTAMP"),
            comment="首次创建时间",
        ),
        sa.Column(
            "last_hit_at",
            sa.DateTime,
            nullable=False,
            server_default=CurrentTimestampOnUpdate(),
            comment="最后命中时间",
        ),
        comment="图片分类全局缓存表",
        **TABLE_OPTIONS,
    )
    _create_index("image_classification_cache", "uk_image_hash", "image_hash", unique=True)
    for column in ("created_at", "category", "hit_count"):
        _create_index("image_classification_cache", f"idx_{column}", column)

    op.create_table(
        "request_log",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(64), nullable=False, comment="请求唯一ID"),
        sa.Column("user_id", sa.String(64), comment="用户ID/设备ID"),
        sa.Column("ip_address", sa.String(45), comment="客户端IP地址"),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希"),
        sa.Column("image_size", UnsignedInteger, comment="图片大小(字节)"),
        sa.Column("category", sa.String(50), nullable=False, comment="分类Key（8个类别之一）"),
        sa.Column("confidence", Confidence, nullable=False, comment="置信度"),
        sa.Column("from_cache", TinyInteger, server_default=sa.text("'0'"), comment="是否来自缓存(0-否 1-是)"),
        sa.Column("processing_time_ms", UnsignedInteger, comment="处理耗时(毫秒)"),
        sa.Column(
            "created_at", sa.DateTime, nullable=False, server_default=sa.text("CURRENT_TIMESTAMP"), comment="创建时间"
        ),
        sa.Column(
            "created_date", sa.Date, sa.Computed("DATE(created_at)", persisted=True), comment="日期(便于分区查询)"
        ),
        comment="请求日志表-用于统计分析",
        **TABLE_OPTIONS,
    )
    _create_index("request_log", "uk_request_id", "request_id", unique=True)
    for column in ("user_id", "ip_address", "created_date", "from_cache", "created_at", "category"):
        _create_index("request_log", f"idx_{column}", column)


def downgrade() -> None:
    op.drop_table("request_log")
    op.drop_table("image_classification_cache")


def _create_index(table: str, name: str, column: str, *, unique: bool = False) -> None:
    # An index name belongs to the whole database on SQLite, to its table on MySQL.
    if op.get_context().dialect.name == "sqlite":
        name = f"{table}_{name}"
    op.create_index(name, table, [column], unique=unique)
