"""Tasks for the pictures of the accounts, what models said of these, and the events of the tasks."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.tables.columns import (
    ACCOUNT_OPTIONS,
    LANGUAGE_MAX_LENGTH,
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


class InferenceJob(Base):
    """An album: a group of tasks that are asked for, looked at and cancelled together."""

    __tablename__ = "inference_job"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, comment="任务组ID")
    user_id: Mapped[int] = mapped_column(UnsignedBigInteger, ForeignKey("users.id", ondelete="CASCADE"), comment="用户")
    model_name: Mapped[str] = mapped_column(String(100), comment="所要的模型")
    priority: Mapped[int] = mapped_column(TinyUnsignedInteger, comment="优先级(1-任务组 2-可等待)")
    cancelled: Mapped[int] = mapped_column(TinyInteger, server_default=text("'0'"), comment="是否已取消(0-否 1-是)")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")

    __table_args__ = (
        Index("idx_user_id", "user_id", "created_at"),
        Index("idx_created_at", "created_at"),
        {"comment": "异步推理任务组", **TABLE_OPTIONS},
    )


class InferenceTask(Base):
    """A picture to be looked at later.

    `status` is pending, processing, completed, failed or cancelled. While it is pending, its next attempt is due at
    `due_at`. While it is processing, `runner` is the process that runs it, and `claim` the mark of this run. Among due
    tasks those of the lowest `priority` are run first. `batch_item` is the photo's request in a batch, if it was put
    into one, `job_id` the job that the task is part of, and `language` that in which the photo is to be described.
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
    priority: Mapped[int] = mapped_column(
        TinyUnsignedInteger, server_default=text("'0'"), comment="优先级(0-单个 1-任务组 2-可等待 3-批次中)"
    )
    batch_item: Mapped[str | None] = mapped_column(String(32), comment="模型批次中的请求ID")
    job_id: Mapped[str | None] = mapped_column(String(32), comment="任务组ID")
    language: Mapped[str | None] = mapped_column(String(LANGUAGE_MAX_LENGTH), comment="所要的描述语言(zh/en)")

    __table_args__ = (
        Index("idx_queue", "status", "priority", "due_at"),
        Index("idx_batch_item", "batch_item"),
        Index("idx_job_id", "job_id", "status"),
        Index("idx_user_id", "user_id", "created_at"),
        # What an account may have unfinished is counted at each new task.
        Index("idx_user_status", "user_id", "status"),
        Index("idx_image_id", "image_id"),
        Index("idx_updated_at", "updated_at"),
        {"comment": "异步推理任务", **ACCOUNT_OPTIONS},
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
    model: Mapped[str] = mapped_column(String(MODEL_NAME_MAX_LENGTH), comment="回答的模型")
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    category: Mapped[str] = mapped_column(String(50), comment="分类Key（8个类别之一）")
    confidence: Mapped[Decimal] = mapped_column(Confidence, comment="置信度(0-1)")
    description: Mapped[str | None] = mapped_column(String(2000), comment="图片描述")
    from_cache: Mapped[int] = mapped_column(TinyInteger, comment="是否来自缓存(0-否 1-是)")
    processing_time_ms: Mapped[int] = mapped_column(UnsignedInteger, comment="处理耗时(毫秒)")
    request_id: Mapped[str] = mapped_column(String(64), comment="请求ID")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")
    cost_micros: Mapped[int] = mapped_column(
        UnsignedBigInteger, server_default=text("'0'"), comment="得到该结果的费用(CURRENCY的百万分之一)"
    )

    __table_args__ = (
        Index("uk_task_id", "task_id", unique=True),
        Index("idx_user_id", "user_id", "id"),
        Index("idx_image_id", "image_id"),
        Index("idx_image_hash", "image_hash", "model"),
        {"comment": "推理结果", **ACCOUNT_OPTIONS},
    )


class TaskEvent(Base):
    """A change of a task's state, for those who listen and for those who were away; kept for a short time."""

    __tablename__ = "task_event"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(UnsignedBigInteger, ForeignKey("users.id", ondelete="CASCADE"), comment="用户")
    task_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("inference_task.id", ondelete="CASCADE"), comment="任务ID"
    )
    body: Mapped[dict[str, Any]] = mapped_column(JSON, comment="事件内容")
    created_at: Mapped[datetime] = mapped_column(Milliseconds, comment="发生时间")

    __table_args__ = (
        Index("idx_user_id", "user_id", "id"),
        Index("idx_created_at", "created_at"),
        Index("idx_task_id", "task_id"),
        {"comment": "任务事件", **ACCOUNT_OPTIONS},
    )
