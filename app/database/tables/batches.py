"""Batches: photos that a provider looks at together at a lower price, and what it said of each."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.config.model import MODEL_NAME_MAX_LENGTH
from app.database.tables.columns import (
    LANGUAGE_MAX_LENGTH,
    TABLE_OPTIONS,
    Base,
    Milliseconds,
    UnsignedBigInteger,
    UnsignedInteger,
    UtcDateTime,
)
from app.database.tables.spending import PROVIDER_MAX_LENGTH


class ModelBatch(Base):
    """One batch. `status` is collecting, submitting, running, ended or failed; the next step is due at `due_at`.

    While a process works on it, `owner` is that process. `reserved_micros` is what it may cost, until its calls are in
    the ledger.
    """

    __tablename__ = "model_batch"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, comment="批次ID")
    provider: Mapped[str] = mapped_column(String(PROVIDER_MAX_LENGTH), comment="服务商")
    model: Mapped[str] = mapped_column(String(MODEL_NAME_MAX_LENGTH), comment="模型")
    status: Mapped[str] = mapped_column(String(16), comment="状态")
    provider_batch_id: Mapped[str | None] = mapped_column(String(255), comment="服务商的批次ID")
    photos: Mapped[int] = mapped_column(UnsignedInteger, comment="图片数")
    reserved_micros: Mapped[int] = mapped_column(
        UnsignedBigInteger, server_default=text("'0'"), comment="预留费用(CURRENCY的百万分之一)"
    )
    owner: Mapped[str | None] = mapped_column(String(64), comment="处理进程")
    due_at: Mapped[datetime] = mapped_column(Milliseconds, comment="下一步的时间")
    steps: Mapped[int] = mapped_column(UnsignedInteger, server_default=text("'0'"), comment="当前状态下的步数")
    submitting_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="开始提交的时间")
    deadline_at: Mapped[datetime] = mapped_column(Milliseconds, comment="截止时间")
    error_code: Mapped[str | None] = mapped_column(String(64), comment="错误码")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="创建时间")
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="修改时间")

    __table_args__ = (
        Index("idx_status", "status", "due_at"),
        # What is reserved is summed up at each new photo.
        Index("idx_reserved_micros", "reserved_micros"),
        Index("idx_updated_at", "updated_at"),
        {"comment": "模型批次", **TABLE_OPTIONS},
    )


class ModelBatchItem(Base):
    """One photo of a batch, under the id that its request has there; `outcome` is None while it is waited for."""

    __tablename__ = "model_batch_item"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, comment="请求ID(custom_id)")
    batch_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("model_batch.id", ondelete="CASCADE"), comment="批次ID"
    )
    user_id: Mapped[int] = mapped_column(UnsignedBigInteger, ForeignKey("users.id", ondelete="CASCADE"), comment="用户")
    image_id: Mapped[int] = mapped_column(
        UnsignedBigInteger, ForeignKey("library_image.id", ondelete="CASCADE"), comment="图片"
    )
    image_hash: Mapped[str] = mapped_column(String(64), comment="SHA-256哈希值")
    outcome: Mapped[str | None] = mapped_column(String(16), comment="结果: answered, invalid, refused, failed")
    error_code: Mapped[str | None] = mapped_column(String(64), comment="错误码")
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), comment="模型的回答")
    cost_micros: Mapped[int] = mapped_column(
        UnsignedBigInteger, server_default=text("'0'"), comment="费用(CURRENCY的百万分之一)"
    )
    language: Mapped[str | None] = mapped_column(String(LANGUAGE_MAX_LENGTH), comment="所要的描述语言(zh/en)")

    __table_args__ = (
        Index("idx_batch_id", "batch_id"),
        Index("idx_user_id", "user_id"),
        Index("idx_image_id", "image_id"),
        {"comment": "模型批次中的图片", **TABLE_OPTIONS},
    )
