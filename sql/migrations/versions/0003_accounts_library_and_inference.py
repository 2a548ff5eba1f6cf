"""Accounts, their pictures, and what models said of these."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.database.tables.accounts import comparison_key
from app.database.tables.classification import (
    TABLE_OPTIONS,
    Confidence,
    Milliseconds,
    TinyInteger,
    UnsignedBigInteger,
    UnsignedInteger,
)

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_table(
        "users",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
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
    )
    _create_index("users", "uk_username_key", "username_key", unique=True)
    _create_index("users", "uk_email_key", "email_key", unique=True)
    _create_table(
        "login_failure",
        sa.Column("subject", sa.String(64), primary_key=True, comment="账号或地址的SHA-256"),
        sa.Column("failures", UnsignedInteger, nullable=False, comment="连续失败次数"),
        sa.Column("last_failure_at", Milliseconds, nullable=False, comment="最后失败时间"),
        comment="登录失败记录",
    )
    _create_index("login_failure", "idx_last_failure_at", "last_failure_at")
    _create_table(
        "stored_file",
        sa.Column("sha256", sa.String(64), primary_key=True, comment="SHA-256哈希值"),
        sa.Column("version", sa.String(16), nullable=False, comment="文件版本(文件名的一部分)"),
        sa.Column("size_bytes", UnsignedBigInteger, nullable=False, comment="文件大小(字节)"),
        _time("created_at", "创建时间"),
        comment="存储的文件",
    )
    _create_table(
        "library_image",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
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
    )
    _create_index("library_image", "idx_sha256", "sha256")
    _create_index("library_image", "idx_user_id", "user_id", "id", "size_bytes")
    _create_table(
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
    _create_index("inference_task", "idx_updated_at", "updated_at")
    _create_index("inference_task", "idx_status", "status", "due_at")
    _create_index("inference_task", "idx_image_id", "image_id")
    _create_index("inference_task", "idx_user_id", "user_id", "created_at")
    _create_table(
        "inference_result",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        _user(),
        _image(),
        sa.Column("task_id", sa.String(32), comment="任务ID"),
        sa.Column("model_name", sa.String(100), nullable=False, comment="所要的模型"),
        sa.Column("model", sa.String(100), nullable=False, comment="回答的模型"),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("category", sa.String(50), nullable=False, comment="分类Key（8个类别之一）"),
        sa.Column("confidence", Confidence, nullable=False, comment="置信度(0-1)"),
        sa.Column("description", sa.String(2000), comment="图片描述"),
        sa.Column("from_cache", TinyInteger, nullable=False, comment="是否来自缓存(0-否 1-是)"),
        sa.Column("processing_time_ms", UnsignedInteger, nullable=False, comment="处理耗时(毫秒)"),
        sa.Column("request_id", sa.String(64), nullable=False, comment="请求ID"),
        _time("created_at", "创建时间"),
        comment="推理结果",
    )
    _create_index("inference_result", "idx_image_hash", "image_hash", "model")
    _create_index("inference_result", "idx_user_id", "user_id", "id")
    _create_index("inference_result", "idx_image_id", "image_id")
    _create_index("inference_result", "uk_task_id", "task_id", unique=True)
    _create_table(
        "task_event",
        sa.Column("id", UnsignedBigInteger, primary_key=True, autoincrement=True),
        _user(),
        sa.Column("task_id", sa.String(32), nullable=False, comment="任务ID"),
        sa.Column("body", sa.JSON, nullable=False, comment="事件内容"),
        sa.Column("created_at", Milliseconds, nullable=False, comment="发生时间"),
        comment="任务事件",
    )
    _create_index("task_event", "idx_user_id", "user_id", "id")
    _create_index("task_event", "idx_created_at", "created_at")


def downgrade() -> None:
    for table in (
        "task_event",
        "inference_result",
        "inference_task",
        "library_image",
        "stored_file",
        "login_failure",
        "users",
    ):
        op.drop_table(table)


def _user() -> sa.Column[int]:
    owner = sa.ForeignKey("users.id", ondelete="CASCADE")
    return sa.Column("user_id", UnsignedBigInteger, owner, nullable=False, comment="用户")


def _image() -> sa.Column[int]:
    image = sa.ForeignKey("library_image.id", ondelete="CASCADE")
    return sa.Column("image_id", UnsignedBigInteger, image, nullable=False, comment="图片")


def _time(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime, nullable=False, server_default=sa.text("CURRENT_TIMESTAMP"), comment=comment)


def _create_table(name: str, *columns: sa.Column[Any], comment: str) -> None:
    # MySQL commits each table by itself: an upgrade may have been cut off, or a DBA may have run the newer init.sql.
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *columns, comment=comment, sqlite_autoincrement=True, **TABLE_OPTIONS)


def _create_index(table: str, name: str, *columns: str, unique: bool = False) -> None:
    # An index name belongs to the whole database on SQLite, to its table on MySQL.
    if op.get_context().dialect.name == "sqlite":
        name = f"{table}_{name}"
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns, unique=unique)
