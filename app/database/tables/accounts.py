"""The tables of the signed-in side: accounts, their pictures, and what models said of these.

Names that must be unique are compared by a key of our own making (a `_key` column), so that every database agrees on
what is the same. What belongs to a user or a picture goes with it, by foreign keys.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, text
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.classification import (
    TABLE_OPTIONS,
    Base,
    Confidence,
    Milliseconds,
    TinyInteger,
    TinyUnsignedInteger,
    UnsignedBigInteger,
    UnsignedInteger,
    UtcDateTime,
    current_timestamp,
)

# An id is never given out twice, also not by SQLite: the token of a deleted account would count for the next one.
_OPTIONS = {**TABLE_OPTIONS, "sqlite_autoincrement": True}


def comparison_key(length: int) -> Any:
    """Return the type of text that is compared byte by byte."""
    binary = mysql.VARCHAR(length, collation="utf8mb4_bin")
    return String(length).with_variant(binary, "mysql", "mariadb")


class User(Base):
    """One account. A token counts only while it has the account's `token_generation`."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    username: Mapped[str] = mapped_column(String(64), comment="用户名")
    username_key: Mapped[str] = mapped_column(comparison_key(64), comment="用户名(比较用)")
    email: Mapped[str] = mapped_column(String(254), comment="邮箱")
    email_key: Mapped[str] = mapped_column(comparison_key(254), comment="邮箱(比较用)")
    password_hash: Mapped[str] = mapped_column(String(255), comment="密码哈希(Argon2)")
    token_generation: Mapped[int] = mapped_column(
        UnsignedInteger, server_default=text("'0'"), comment="令牌代数(改密码后旧令牌失效)"
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="修改时间")

    __table_args__ = (
        Index("uk_username_key", "username_key", unique=True),
        Index("uk_email_key", "email_key", unique=True),
        {"comment": "用户", **_OPTIONS},
    )


class LoginFailure(Base):
    """Failed log-ins in a row of one account or from one address; `subject` is a hash, so it names no person."""

    __tablename__ = "login_failure"

    subject: Mapped[str] = mapped_column(String(64), primary_key=True, comment="账号或地址的SHA-256")
    failures: Mapped[int] = mapped_column(UnsignedInteger, comment="连续失败次数")
    last_failure_at: Mapped[datetime] = mapped_column(Milliseconds, comment="最后失败时间")

    __table_args__ = (
        Index("idx_last_failure_at", "last_failure_at"),
        {"comment": "登录失败记录", **_OPTIONS},
    )


class StoredFile(Base):
    """A file of the storage; equal pictures of several people share it.

    Its name there is made of `sha256` and `version`. A version is never used twice, so removing the file of a row that
    is gone cannot hit the file of a later row for the same picture.
    """

    __tablename__ = "stored_file"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True, comment="SHA-256哈希值")
    version: Mapped[str] = mapped_column(String(16), comment="文件版本(文件名的一部分)")
    size_bytes: Mapped[int] = mapped_column(UnsignedBigInteger, comment="文件大小(字节)")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")

    __table_args__ = ({"comment": "存储的文件", **_OPTIONS},)


class LibraryState(Base):
    """The one row of what is known of the library as a whole.

    `library_id` stands in the storage too: files are swept only where both agree.
    """

    __tablename__ = "library_state"

    id: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="固定为1")
    library_id: Mapped[str] = mapped_column(String(32), comment="图片库ID(与存储中的标记一致)")
    swept_at: Mapped[datetime] = mapped_column(Milliseconds, comment="最近一次清理的开始时间")

    __table_args__ = ({"comment": "图片库状态", **_OPTIONS},)


class LibraryImage(Base):
    """One picture in an account's library. `filename` is what its owner calls it, and never a path of ours."""

    __tablename__ = "library_image"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(UnsignedBigInteger, ForeignKey("users.id", ondelete="CASCADE"), comment="用户")
    sha256: Mapped[str] = mapped_column(String(64), ForeignKey("stored_file.sha256"), comment="SHA-256哈希值")
    filename: Mapped[str] = mapped_column(String(255), comment="原文件名")
    format: Mapped[str] = mapped_column(String(8), comment="格式")
    width: Mapped[int] = mapped_column(UnsignedInteger, comment="宽(像素)")
    height: Mapped[int] = mapped_column(UnsignedInteger, comment="高(像素)")
    size_bytes: Mapped[int] = mapped_column(UnsignedBigInteger, comment="文件大小(字节)")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="上传时间")

    __table_args__ = (
        # With the size, so that a quota is summed up from the index alone.
        Index("idx_user_id", "user_id", "id", "size_bytes"),
        Index("idx_sha256", "sha256"),
        {"comment": "用户图片", **_OPTIONS},
    )


class InferenceTask(Base):
    """A picture to be looked at later.

    `status` is pending, processing, completed, failed or cancelled. While it is pending, its next attempt is due at
    `due_at`. While it is processing, `runner` is the process that runs it, and `claim` the mark of this run.
    """

    __tablename__ = "inference_task"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, comment="任务ID")
    user_id: Mapped[int] = mapped_column(UnsignedBigInteger, ForeignKey("users.id", ondelete="CASCADE"), comment="用户")
    image_id: Mapped[int] = mapped_column(
        UnsignedBigInteger, ForeignKey("library_image.id", ondelete="CASCADE"), comment="图片"
    )
    model_name: Mapped[str] = mapped_column(String(100), comment="所要的模型")
    status: Mapped[str] = mapped_column(String(16), comment="状态")
    attempts: Mapped[int] = mapped_column(UnsignedInteger, server_default=text("'0'"), comment="已尝试次数")
    due_at: Mapped[datetime] = mapped_column(Milliseconds, comment="可执行时间")
    runner: Mapped[str | None] = mapped_column(String(64), comment="执行进程")
    claim: Mapped[str | None] = mapped_column(String(32), comment="领取标记")
    error_code: Mapped[str | None] = mapped_column(String(64), comment="错误码")
    error_message: Mapped[str | None] = mapped_column(String(500), comment="错误说明")
    result_id: Mapped[int | None] = mapped_column(UnsignedBigInteger, comment="结果")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="修改时间")

    __table_args__ = (
        Index("idx_status", "status", "due_at"),
        Index("idx_user_id", "user_id", "created_at"),
        # What an account may have unfinished is counted at each new task.
        Index("idx_user_status", "user_id", "status"),
        Index("idx_image_id", "image_id"),
        Index("idx_updated_at", "updated_at"),
        {"comment": "异步推理任务", **_OPTIONS},
    )


class InferenceResult(Base):
    """What a model said of a picture of a library; `model_name` is what was asked for, `model` what has answered."""

    __tablename__ = "inference_result"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(UnsignedBigInteger, ForeignKey("users.id", ondelete="CASCADE"), comment="用户")
    image_id: Mapped[int] = mapped_column(
        UnsignedBigInteger, ForeignKey("library_image.id", ondelete="CASCADE"), comment="图片"
    )
    task_id: Mapped[str | None] = mapped_column(String(32), comment="任务ID")
    model_name: Mapped[str] = mapped_column(String(100), comment="所要的模型")
    model: Mapped[str] = mapped_column(String(100), comment="回答的模型")
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    category: Mapped[str] = mapped_column(String(50), comment="分类Key（8个类别之一）")
    confidence: Mapped[Decimal] = mapped_column(Confidence, comment="置信度(0-1)")
    description: Mapped[str | None] = mapped_column(String(2000), comment="图片描述")
    from_cache: Mapped[int] = mapped_column(TinyInteger, comment="是否来自缓存(0-否 1-是)")
    processing_time_ms: Mapped[int] = mapped_column(UnsignedInteger, comment="处理耗时(毫秒)")
    request_id: Mapped[str] = mapped_column(String(64), comment="请求ID")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")

    __table_args__ = (
        Index("uk_task_id", "task_id", unique=True),
        Index("idx_user_id", "user_id", "id"),
        Index("idx_image_id", "image_id"),
        Index("idx_image_hash", "image_hash", "model"),
        {"comment": "推理结果", **_OPTIONS},
    )


class TaskEvent(Base):
    """A change of a task's state, for those who listen and for those who were away; kept for a short time."""

    __tablename__ = "task_event"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(UnsignedBigInteger, ForeignKey("users.id", ondelete="CASCADE"), comment="用户")
    task_id: Mapped[str] = mapped_column(String(32), comment="任务ID")
    body: Mapped[dict[str, Any]] = mapped_column(JSON, comment="事件内容")
    created_at: Mapped[datetime] = mapped_column(Milliseconds, comment="发生时间")

    __table_args__ = (
        Index("idx_user_id", "user_id", "id"),
        Index("idx_created_at", "created_at"),
        {"comment": "任务事件", **_OPTIONS},
    )
