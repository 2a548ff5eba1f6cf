"""All tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import create_index, create_table
from app.database.tables.columns import (
    Confidence,
    CurrentTimestampOnUpdate,
    Milliseconds,
    TinyInteger,
    TinyUnsignedInteger,
    UnsignedBigInteger,
    UnsignedInteger,
    comparison_key,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "image_classification_cache",
    "request_log",
    "cache_change",
    "process_heartbeat",
    "model_call_lease",
    "stats_period",
    "stats_user",
    "stats_visitor",
    "stats_visitor_count",
    "stats_cache",
    "stats_error",
    "stats_state",
    "users",
    "login_failure",
    "stored_file",
    "library_state",
    "library_image",
    "inference_task",
    "inference_result",
    "task_event",
)


def upgrade() -> None:
    _create_cache_and_log()
    _create_statistics()
    _create_accounts_and_library()
    _create_inference()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_cache_and_log() -> None:
    create_table(
        "image_classification_cache",
        _id(),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("category", sa.String(50), nullable=False, comment="分类Key（8个预定义类别之一）"),
        sa.Column("confidence", Confidence, nullable=False, comment="置信度(0-1)"),
        sa.Column("description", sa.Text, comment="图片描述"),
        sa.Column("model_used", sa.String(255), nullable=False, comment="使用的模型"),
        sa.Column("model_response", sa.JSON, comment="完整模型响应"),
        sa.Column("hit_count", UnsignedInteger, server_default=sa.text("'1'"), comment="缓存命中次数"),
        _time("created_at", "首次创建时间"),
        sa.Column(
            "last_hit_at",
            sa.DateTime,
            nullable=False,
            server_default=CurrentTimestampOnUpdate(),
            comment="最后命中时间",
        ),
        comment="图片分类全局缓存表",
    )
    create_index("image_classification_cache", "uk_image_hash", "image_hash", unique=True)
    for column in ("created_at", "category", "hit_count"):
        create_index("image_classification_cache", f"idx_{column}", column)
    create_table(
        "request_log",
        _id(),
        sa.Column("request_id", sa.String(64), nullable=False, comment="请求唯一ID"),
        sa.Column("user_id", sa.String(64), comment="用户ID/设备ID"),
        sa.Column("ip_address", sa.String(45), comment="客户端IP地址"),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希"),
        sa.Column("image_size", UnsignedInteger, comment="图片大小(字节)"),
        sa.Column("category", sa.String(50), nullable=False, comment="分类Key（8个类别之一）"),
        sa.Column("confidence", Confidence, nullable=False, comment="置信度"),
        sa.Column("from_cache", TinyInteger, server_default=sa.text("'0'"), comment="是否来自缓存(0-否 1-是)"),
        sa.Column("processing_time_ms", UnsignedInteger, comment="处理耗时(毫秒)"),
        _time("created_at", "创建时间"),
        sa.Column(
            "created_date", sa.Date, sa.Computed("DATE(created_at)", persisted=True), comment="日期(便于分区查询)"
        ),
        comment="请求日志表-用于统计分析",
    )
    create_index("request_log", "uk_request_id", "request_id", unique=True)
    for column in ("user_id", "ip_address", "created_date", "from_cache", "created_at", "category"):
        create_index("request_log", f"idx_{column}", column)
    create_table(
        "cache_change",
        _id(),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("changed_at", sa.DateTime, nullable=False, comment="修改时间"),
        comment="缓存人工修改记录",
    )
    create_index("cache_change", "idx_changed_at", "changed_at")
    create_table(
        "process_heartbeat",
        sa.Column("process_id", sa.String(32), primary_key=True, comment="进程ID"),
        sa.Column("beat_at", Milliseconds, nullable=False, comment="最近心跳时间"),
        comment="进程心跳",
    )
    create_table(
        "model_call_lease",
        sa.Column("image_hash", sa.String(64), primary_key=True, comment="SHA-256哈希值"),
        sa.Column("owner", sa.String(32), nullable=False, comment="持有者进程ID"),
        comment="模型调用租约（同一图片只调用一次）",
    )


def _create_statistics() -> None:
    create_table(
        "stats_period",
        sa.Column("period_start", sa.DateTime, primary_key=True, comment="时段开始(UTC, 15分钟)"),
        sa.Column("category", sa.String(50), primary_key=True, comment="分类Key（8个类别之一）"),
        _shard(),
        _sum("requests", "请求数"),
        _sum("hits", "缓存命中数"),
        _sum("processing_time_ms", "处理耗时之和(毫秒)"),
        _sum("confidence_sum", "置信度之和(万分之一)"),
        comment="分时段统计",
    )
    create_table(
        "stats_user",
        sa.Column("user_id", sa.String(64), primary_key=True, comment="用户ID/设备ID"),
        _sum("requests", "请求数"),
        _sum("hits", "缓存命中数"),
        sa.Column("first_request_at", sa.DateTime, nullable=False, comment="首次请求时间"),
        sa.Column("last_request_at", sa.DateTime, nullable=False, comment="最后请求时间"),
        comment="用户统计",
    )
    create_index("stats_user", "idx_requests", "requests", "user_id")
    create_table(
        "stats_visitor",
        _day(),
        _kind(),
        sa.Column("visitor", sa.String(64), primary_key=True, comment="用户ID或IP地址"),
        comment="每日访客",
    )
    create_table(
        "stats_visitor_count",
        _day(),
        _kind(),
        _shard(),
        _sum("visitors", "人数"),
        comment="每日访客数",
    )
    create_table(
        "stats_cache",
        _shard(),
        sa.Column("images", sa.BigInteger, nullable=False, comment="图片数"),
        sa.Column("hits", sa.BigInteger, nullable=False, comment="命中次数之和"),
        comment="缓存统计",
    )
    create_table(
        "stats_error",
        sa.Column("period_start", sa.DateTime, primary_key=True, comment="时段开始(UTC, 15分钟)"),
        sa.Column("code", sa.String(64), primary_key=True, comment="错误码"),
        _shard(),
        _sum("errors", "错误数"),
        comment="分时段错误数",
    )
    create_table(
        "stats_state",
        sa.Column("name", sa.String(32), primary_key=True, comment="名称"),
        sa.Column("value", sa.String(64), nullable=False, comment="值"),
        comment="统计状态",
    )


def _create_accounts_and_library() -> None:
    create_table(
        "users",
        _id(),
        sa.Column("username", sa.String(64), nullable=False, comment="用户名"),
        sa.Column("username_key", comparison_key(64), nullable=False, comment="用户名(比较用)"),
        sa.Column("email", sa.String(254), nullable=False, comment="邮箱"),
        sa.Column("email_key", comparison_key(254), nullable=False, comment="邮箱(比较用)"),
        sa.Column("password_hash", sa.String(255), nullable=False, comment="密码哈希(Argon2)"),
        sa.Column(
            "token_generation",
            UnsignedInteger,
            nullable=False,
            server_default=sa.text("'0'"),
            comment="令牌代数(改密码后旧令牌失效)",
        ),
        _time("created_at", "创建时间"),
        _time("updated_at", "修改时间"),
        comment="用户",
        sqlite_autoincrement=True,
    )
    create_index("users", "uk_username_key", "username_key", unique=True)
    create_index("users", "uk_email_key", "email_key", unique=True)
    create_table(
        "login_failure",
        sa.Column("subject", sa.String(64), primary_key=True, comment="账号或地址的SHA-256"),
        sa.Column("failures", UnsignedInteger, nullable=False, comment="连续失败次数"),
        sa.Column("last_failure_at", Milliseconds, nullable=False, comment="最后失败时间"),
        comment="登录失败记录",
    )
    create_index("login_failure", "idx_last_failure_at", "last_failure_at")
    create_table(
        "stored_file",
        sa.Column("sha256", sa.String(64), primary_key=True, comment="SHA-256哈希值"),
        sa.Column("version", sa.String(16), nullable=False, comment="文件版本(文件名的一部分)"),
        sa.Column("size_bytes", UnsignedBigInteger, nullable=False, comment="文件大小(字节)"),
        _time("created_at", "创建时间"),
        comment="存储的文件",
    )
    create_table(
        "library_state",
        sa.Column("id", TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="固定为1"),
        sa.Column("library_id", sa.String(32), nullable=False, comment="图片库ID(与存储中的标记一致)"),
        sa.Column("swept_at", Milliseconds, nullable=False, comment="最近一次清理的开始时间"),
        comment="图片库状态",
    )
    create_table(
        "library_image",
        _id(),
        _user(),
        sa.Column(
            "sha256", sa.String(64), sa.ForeignKey("stored_file.sha256"), nullable=False, comment="SHA-256哈希值"
        ),
        sa.Column("filename", sa.String(255), nullable=False, comment="原文件名"),
        sa.Column("format", sa.String(8), nullable=False, comment="格式"),
        sa.Column("width", UnsignedInteger, nullable=False, comment="宽(像素)"),
        sa.Column("height", UnsignedInteger, nullable=False, comment="高(像素)"),
        sa.Column("size_bytes", UnsignedBigInteger, nullable=False, comment="文件大小(字节)"),
        _time("created_at", "上传时间"),
        comment="用户图片",
        sqlite_autoincrement=True,
    )
    create_index("library_image", "idx_sha256", "sha256")
    create_index("library_image", "idx_user_id", "user_id", "id", "size_bytes")


def _create_inference() -> None:
    create_table(
        "inference_task",
        sa.Column("id", sa.String(32), primary_key=True, comment="任务ID"),
        _user(),
        _image(),
        sa.Column("model_name", sa.String(100), nullable=False, comment="所要的模型"),
        sa.Column("status", sa.String(16), nullable=False, comment="状态"),
        sa.Column("attempts", UnsignedInteger, nullable=False, server_default=sa.text("'0'"), comment="已尝试次数"),
        sa.Column("due_at", Milliseconds, nullable=False, comment="可执行时间"),
        sa.Column("runner", sa.String(64), comment="执行进程"),
        sa.Column("claim", sa.String(32), comment="领取标记"),
        sa.Column("error_code", sa.String(64), comment="错误码"),
        sa.Column("error_message", sa.String(500), comment="错误说明"),
        sa.Column("result_id", UnsignedBigInteger, comment="结果"),
        _time("created_at", "创建时间"),
        _time("updated_at", "修改时间"),
        comment="异步推理任务",
    )
    create_index("inference_task", "idx_updated_at", "updated_at")
    create_index("inference_task", "idx_status", "status", "due_at")
    create_index("inference_task", "idx_image_id", "image_id")
    create_index("inference_task", "idx_user_id", "user_id", "created_at")
    # What an account may have unfinished is counted at each new task.
    create_index("inference_task", "idx_user_status", "user_id", "status")
    create_table(
        "inference_result",
        _id(),
        _user(),
        _image(),
        sa.Column("task_id", sa.String(32), comment="任务ID"),
        sa.Column("model_name", sa.String(100), nullable=False, comment="所要的模型"),
        sa.Column("model", sa.String(255), nullable=False, comment="回答的模型"),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("category", sa.String(50), nullable=False, comment="分类Key（8个类别之一）"),
        sa.Column("confidence", Confidence, nullable=False, comment="置信度(0-1)"),
        sa.Column("description", sa.String(2000), comment="图片描述"),
        sa.Column("from_cache", TinyInteger, nullable=False, comment="是否来自缓存(0-否 1-是)"),
        sa.Column("processing_time_ms", UnsignedInteger, nullable=False, comment="处理耗时(毫秒)"),
        sa.Column("request_id", sa.String(64), nullable=False, comment="请求ID"),
        _time("created_at", "创建时间"),
        comment="推理结果",
        sqlite_autoincrement=True,
    )
    create_index("inference_result", "idx_image_hash", "image_hash", "model")
    create_index("inference_result", "idx_user_id", "user_id", "id")
    create_index("inference_result", "idx_image_id", "image_id")
    create_index("inference_result", "uk_task_id", "task_id", unique=True)
    create_table(
        "task_event",
        _id(),
        _user(),
        sa.Column("task_id", sa.String(32), nullable=False, comment="任务ID"),
        sa.Column("body", sa.JSON, nullable=False, comment="事件内容"),
        sa.Column("created_at", Milliseconds, nullable=False, comment="发生时间"),
        comment="任务事件",
        sqlite_autoincrement=True,
    )
    create_index("task_event", "idx_user_id", "user_id", "id")
    create_index("task_event", "idx_created_at", "created_at")


def _id() -> sa.Column[int]:
    return sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True)


def _user() -> sa.Column[int]:
    owner = sa.ForeignKey("users.id", ondelete="CASCADE")
    return sa.Column("user_id", UnsignedBigInteger, owner, nullable=False, comment="用户")


def _image() -> sa.Column[int]:
    image = sa.ForeignKey("library_image.id", ondelete="CASCADE")
    return sa.Column("image_id", UnsignedBigInteger, image, nullable=False, comment="图片")


def _time(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime, nullable=False, server_default=sa.text("CURRENT_TIMESTAMP"), comment=comment)


def _day() -> sa.Column[object]:
    return sa.Column("day", sa.Date, primary_key=True, comment="日期(统计时区)")


def _kind() -> sa.Column[str]:
    return sa.Column("kind", sa.String(4), primary_key=True, comment="user或ip")


def _shard() -> sa.Column[int]:
    return sa.Column("shard", TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")


def _sum(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, UnsignedBigInteger, nullable=False, comment=comment)
