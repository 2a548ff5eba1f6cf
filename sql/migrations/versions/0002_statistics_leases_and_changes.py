"""Rollups for the statistics, leases of model calls, and the record of entries changed by hand."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.database.tables.classification import TABLE_OPTIONS, Milliseconds, TinyUnsignedInteger, UnsignedBigInteger

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_table(
        "cache_change",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("changed_at", sa.DateTime, nullable=False, comment="修改时间"),
        comment="缓存人工修改记录",
    )
    _create_index("cache_change", "idx_changed_at", "changed_at")
    _create_table(
        "process_heartbeat",
        sa.Column("process_id", sa.String(32), primary_key=True, comment="进程ID"),
        sa.Column("beat_at", Milliseconds, nullable=False, comment="最近心跳时间"),
        comment="进程心跳",
    )
    _create_table(
        "model_call_lease",
        sa.Column("image_hash", sa.String(64), primary_key=True, comment="SHA-256哈希值"),
        sa.Column("owner", sa.String(32), nullable=False, comment="持有者进程ID"),
        comment="模型调用租约（同一图片只调用一次）",
    )
    _create_table(
        "stats_period",
        sa.Column("period_start", sa.DateTime, primary_key=True, comment="时段开始(UTC, 15分钟)"),
        sa.Column("category", sa.String(50), primary_key=True, comment="分类Key（8个类别之一）"),
        _shard(),
        _sum("requests", "请求数"),
        _sum("hits", "缓存命中数"),
        _sum("timed_requests", "有耗时记录的请求数"),
        _sum("processing_time_ms", "处理耗时之和(毫秒)"),
        _sum("confidence_sum", "置信度之和(万分之一)"),
        comment="分时段统计",
    )
    _create_table(
        "stats_user",
        sa.Column("user_id", sa.String(64), primary_key=True, comment="用户ID/设备ID"),
        _sum("requests", "请求数"),
        _sum("hits", "缓存命中数"),
        sa.Column("first_request_at", sa.DateTime, nullable=False, comment="首次请求时间"),
        sa.Column("last_request_at", sa.DateTime, nullable=False, comment="最后请求时间"),
        comment="用户统计",
    )
    _create_index("stats_user", "idx_requests", "requests", "user_id")
    _create_table(
        "stats_visitor",
        _day(),
        _kind(),
        sa.Column("visitor", sa.String(64), primary_key=True, comment="用户ID或IP地址"),
        comment="每日访客",
    )
    _create_table(
        "stats_visitor_count",
        _day(),
        _kind(),
        _shard(),
        _sum("visitors", "人数"),
        comment="每日访客数",
    )
    _create_table(
        "stats_cache",
        _shard(),
        sa.Column("images", sa.BigInteger, nullable=False, comment="图片数"),
        sa.Column("hits", sa.BigInteger, nullable=False, comment="命中次数之和"),
        comment="缓存统计",
    )
    _create_table(
        "stats_state",
        sa.Column("name", sa.String(32), primary_key=True, comment="名称"),
        sa.Column("value", sa.String(64), nullable=False, comment="值"),
        comment="统计状态",
    )


def downgrade() -> None:
    for table in (
        "stats_state",
        "stats_cache",
        "stats_visitor_count",
        "stats_visitor",
        "stats_user",
        "stats_period",
        "model_call_lease",
        "process_heartbeat",
        "cache_change",
    ):
        op.drop_table(table)


def _day() -> sa.Column[object]:
    return sa.Column("day", sa.Date, primary_key=True, comment="日期(统计时区)")


def _kind() -> sa.Column[str]:
    return sa.Column("kind", sa.String(4), primary_key=True, comment="user或ip")


def _shard() -> sa.Column[int]:
    return sa.Column("shard", TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")


def _sum(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, UnsignedBigInteger, nullable=False, comment=comment)


def _create_table(name: str, *columns: sa.Column[Any], comment: str) -> None:
    # MySQL commits each table by itself: an upgrade may have been cut off, or a DBA may have run the newer init.sql.
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *columns, comment=comment, **TABLE_OPTIONS)


def _create_index(table: str, name: str, *columns: str) -> None:
    # An index name belongs to the whole database on SQLite, to its table on MySQL.
    if op.get_context().dialect.name == "sqlite":
        name = f"{table}_{name}"
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns)
